"""All regions as one service, for the Prometheus above them: what it promises, and who serves it."""

from __future__ import annotations

from grafana.overview import BURN_STEPS
from grafana.parts import (
    BAD,
    FAIR,
    GOOD,
    MODEL,
    NAMESPACE,
    REGION,
    RELEASE,
    WHERE,
    WHO,
    Board,
    Panel,
    Query,
    Row,
    Variable,
)

# A global series is of no region and of no namespace.
EVERYWHERE = 'model=~"$model"'
# Federated: a region's Prometheus keeps what Triton itself counts.
MODEL_NAME = Variable("model", "Model", "inference:slo_requests:rate5m", RELEASE)


def bad(slo: str, window: str) -> str:
    """The share of all regions' requests that was bad, the worst model's."""
    return f'max(inference:global:slo_errors:ratio_rate{window}{{slo="{slo}", {EVERYWHERE}}})'


def burn(slo: str, window: str) -> str:
    """How many times faster than allowed the error budget of all regions is used."""
    of = f'{{slo="{slo}", {EVERYWHERE}}}'
    ratio = f"inference:global:slo_errors:ratio_rate{window}{of}"
    return f"max({ratio}\n/ (1 - inference:global:slo:objective{of}))"


SERVICE = Row(
    "The service",
    (
        Panel(
            "Regions",
            "How many releases are heard of. One that no longer is, is an alert.",
            "`inference:slo_requests:rate5m`, which every region records.",
            "Fewer than there should be: the region, its Prometheus, or the way to it.",
            (Query(f"count(group by ({WHERE}) (inference:slo_requests:rate5m{{{MODEL}}}))", "regions"),),
            "none",
            kind="stat",
            alerts=("InferenceRegionMissing",),
            width=6,
            height=4,
        ),
        Panel(
            "Requests",
            "Requests a second of all regions together, answered or not.",
            "`inference:global:requests:rate5m`.",
            "Falling while each region is well: the load balancer or the clients.",
            (Query(f"sum(inference:global:requests:rate5m{{{EVERYWHERE}}})", "requests"),),
            "reqps",
            kind="stat",
            width=6,
            height=4,
        ),
        Panel(
            "Availability, last hour",
            "The share of all regions' requests that were answered.",
            '`inference:global:slo_errors:ratio_rate1h{slo="availability"}`.',
            "The shares of each region below say whose requests fail.",
            (Query(f"1 - {bad('availability', '1h')}", "availability"),),
            "percentunit",
            kind="stat",
            decimals=3,
            width=6,
            height=4,
        ),
        Panel(
            "Error budget left",
            "What is left of the errors that the strictest region's objective allows over its window, of all "
            "regions together: 100 % is untouched.",
            "`inference:global:slo_error_budget:remaining`.",
            "A region with its own budget intact does not help: a request weighs the same everywhere.",
            (Query(f"min(inference:global:slo_error_budget:remaining{{{EVERYWHERE}}})", "left"),),
            "percentunit",
            kind="stat",
            decimals=1,
            first=BAD,
            steps=((0.0001, FAIR), (0.25, GOOD)),
            width=6,
            height=4,
        ),
        Panel(
            "Burn rate: availability",
            "How fast failed requests of all regions use the error budget up. The lines are where a region's "
            "own alerts speak: 14.4 and 6 page, 1 asks for a ticket.",
            '`inference:global:slo_errors:ratio_rate*{slo="availability"}` over what '
            "`inference:global:slo:objective` allows.",
            "The overview says which region it is, and its alerts have paged.",
            tuple(Query(burn("availability", window), window) for window in ("5m", "1h", "6h", "3d")),
            "none",
            decimals=2,
            first="transparent",
            steps=BURN_STEPS,
            lines=True,
        ),
        Panel(
            "Latency at the server, all regions",
            "Percentiles of the time in Triton over all regions' requests: their histograms are added up, "
            "not their percentiles.",
            "`inference:global:server_seconds:*`.",
            "The overview has each region's own p99.",
            tuple(
                Query(f"max(inference:global:server_seconds:{name}_5m{{{EVERYWHERE}}})", name)
                for name in ("p50", "p95", "p99")
            ),
            "s",
        ),
    ),
)

REGIONS = Row(
    "Who serves it",
    (
        Panel(
            "How full each region is",
            "A region's requests over what all its pods serve within their objectives, `slo.throughput`. A "
            "load balancer sends what is beyond 1 to the next closest region.",
            "`inference:global:region_load:ratio5m`.",
            "Near 1 for long: more pods there. Clients of that region wait for a far one.",
            (Query(f"max by ({WHERE}) (inference:global:region_load:ratio5m{{{RELEASE}}})", WHO),),
            "percentunit",
            width=8,
        ),
        Panel(
            "Requests by region",
            "Requests a second, answered or not.",
            "`inference:requests:rate5m`.",
            "One falls while another rises: the load balancer moved clients, for the region is full or ill.",
            (Query(f"sum by ({WHERE}) (inference:requests:rate5m{{{MODEL}}})", WHO),),
            "reqps",
            width=8,
            stacked=True,
        ),
        Panel(
            "Availability by region",
            "The share of each region's requests that were answered, over 5 minutes.",
            '`inference:slo_errors:rate5m` over `inference:slo_requests:rate5m`, of `slo="availability"`.',
            "One region: its pods. All at once: what was rolled out last.",
            (
                Query(
                    f'1 - sum by ({WHERE}) (inference:slo_errors:rate5m{{slo="availability", {MODEL}}})\n'
                    f'/ sum by ({WHERE}) (inference:slo_requests:rate5m{{slo="availability", {MODEL}}})',
                    WHO,
                ),
            ),
            "percentunit",
            decimals=3,
            minimum=None,
            maximum=1,
            width=8,
        ),
    ),
)

BOARD = Board(
    "regions",
    "Inference: regions",
    "All regions as one service. For the Grafana of the Prometheus above them.",
    (SERVICE, REGIONS),
    (REGION, NAMESPACE, MODEL_NAME),
)
