"""Does the service keep its promises, in every region? The first page on call."""

from __future__ import annotations

from grafana.parts import (
    BAD,
    FAIR,
    FIRING,
    GOOD,
    MODEL,
    MODEL_NAME,
    NAMESPACE,
    REGION,
    RELEASE,
    WHERE,
    WHO,
    Board,
    Panel,
    Query,
    Row,
    objective,
    or_none,
    percentiles,
)

# Which objective an SLO's error budget comes from: 1 - objective is the share of requests that may be bad.
OBJECTIVES = {"availability": "availability", "latency": "latency.server.percentile"}
# The latency SLO counts what the exporter beside Triton measures.
NEEDS = {"availability": frozenset[str](), "latency": frozenset({"latency exporter"})}
# How fast a budget may burn before the alerts speak: over 5m and 1h, 30m and 6h, 2h and 1d, 6h and 3d.
BURN_STEPS = ((1.0, FAIR), (6.0, "dark-orange"), (14.4, BAD))


def errors(slo: str, window: str) -> str:
    """The share of bad requests, the worst model's."""
    return f'max by ({WHERE}) (inference:slo_errors:ratio_rate{window}{{slo="{slo}", {MODEL}}})'


def burn(slo: str, window: str) -> str:
    """How many times faster than allowed the error budget is used, where that is fastest."""
    allowed = f'min by ({WHERE}) (inference:slo:objective{{objective="{OBJECTIVES[slo]}", {RELEASE}}})'
    return f"max({errors(slo, window)}\n/ on ({WHERE}) (1 - {allowed}))"


def promised(names: str) -> str:
    labels = f'objective=~"{names}", {RELEASE}'
    return f"max by (objective, {WHERE}) (inference:slo:objective{{{labels}}})"


def named(name: str, expr: str) -> str:
    """The numbers with the label of the objective that they are held against."""
    return f'label_replace({expr}, "objective", "{name}", "", "")'


def either(*exprs: str) -> str:
    return "\nor ".join(exprs)


SHARES = "availability|latency.server.percentile"
TIMES = "latency.client.p.+|queueTime"
KEPT_SHARES = either(*(named(name, f"1 - {errors(slo, '1h')}") for slo, name in OBJECTIVES.items()))
KEPT_TIMES = either(
    named("queueTime", f"max by ({WHERE}) (inference:queue_seconds:mean5m{{{MODEL}}})"),
    *(
        named(f"latency.client.{name}", f"max by ({WHERE}) (inference:client_seconds:{name}_5m{{{RELEASE}}})")
        for name in ("p50", "p95", "p99")
    ),
)
MET_SHARES = f"({KEPT_SHARES})\n>= bool on (objective, {WHERE}) {promised(SHARES)}"
MET_TIMES = f"({KEPT_TIMES})\n<= bool on (objective, {WHERE}) {promised(TIMES)}"
MET = ((0, "missed", BAD), (1, "met", GOOD))
COLUMNS = (("objective", "Objective"), ("region", "Region"), ("namespace", "Namespace"))


PROMISES = Row(
    "Promises",
    (
        Panel(
            "All objectives",
            "Whether every objective in the tables below is met.",
            "`inference:slo:objective` against what the rules record: shares over the last hour, times over "
            "5 minutes.",
            "The tables name the objective and the region that miss it.",
            (Query(f"min(({MET_SHARES})\nor ({MET_TIMES}))", "objectives"),),
            "none",
            kind="stat",
            words=MET,
            width=4,
            height=4,
        ),
        Panel(
            "Alerts firing",
            "How many of this chart's alerts fire now; the panel on the right names them.",
            "Prometheus' own `ALERTS`.",
            "Open the alert's runbook.",
            (Query(f"count({FIRING}) or 0 * count(up{{{RELEASE}}})", "alerts"),),
            "none",
            kind="stat",
            first=GOOD,
            steps=((1.0, BAD),),
            width=4,
            height=4,
        ),
        Panel(
            "Requests",
            "Requests a second, answered or not, of everything that is chosen above.",
            "`inference:requests:rate5m`.",
            "None at all: the load balancer or the clients, if pods answer; else the pods.",
            (Query(f"sum(inference:requests:rate5m{{{MODEL}}})", "requests"),),
            "reqps",
            kind="stat",
            alerts=("InferenceNoPodAnswers",),
            width=4,
            height=4,
        ),
        Panel(
            "Availability, last hour",
            "The share of requests that were answered, in the region where it is lowest.",
            '`inference:slo_errors:ratio_rate1h{slo="availability"}`.',
            "See which reasons fail below, then the Triton dashboard for the pods that do.",
            (Query(f"min(1 - {errors('availability', '1h')})", "availability"),),
            "percentunit",
            kind="stat",
            decimals=3,
            alerts=("InferenceErrorBudgetBurn",),
            width=4,
            height=4,
        ),
        Panel(
            "In time, last hour",
            "The share of requests that Triton answered within the latency objective, where it is lowest.",
            '`inference:slo_errors:ratio_rate1h{slo="latency"}`.',
            "The Triton dashboard says whether requests wait in the queue or take longer to execute.",
            (Query(f"min(1 - {errors('latency', '1h')})", "in time", needs=NEEDS["latency"]),),
            "percentunit",
            kind="stat",
            decimals=3,
            alerts=("InferenceErrorBudgetBurn",),
            width=4,
            height=4,
        ),
        Panel(
            "Error budget left",
            "What is left of the errors that the objective allows over `slo.window`, where it is least: 100 "
            "% is untouched, below 0 the promise is broken.",
            "`inference:slo_error_budget:remaining`.",
            "Below a quarter: no risky rollouts until it recovers. The burn rate says whether it still "
            "falls.",
            (Query(f"min(inference:slo_error_budget:remaining{{{MODEL}}})", "left"),),
            "percentunit",
            kind="stat",
            decimals=1,
            first=BAD,
            steps=((0.0001, FAIR), (0.25, GOOD)),
            alerts=("InferenceErrorBudgetBurn",),
            width=4,
            height=4,
        ),
        Panel(
            "Shares, last hour",
            "Each objective that is a share of requests: promised, and kept over the last hour.",
            "`inference:slo:objective` and `inference:slo_errors:ratio_rate1h`.",
            "A missed hour spends the error budget; whether that matters, the budget says.",
            (
                Query(promised(SHARES), "Promised"),
                Query(KEPT_SHARES, "Measured"),
                Query(MET_SHARES, "Kept", unit="none"),
            ),
            "percentunit",
            kind="table",
            decimals=3,
            alerts=("InferenceErrorBudgetBurn",),
            words=MET,
            columns=COLUMNS,
            height=7,
        ),
        Panel(
            "Times, last 5 minutes",
            "Each objective that is a time: promised, and measured over 5 minutes. The client's need a load "
            "test.",
            "`inference:slo:objective`, `inference:queue_seconds:mean5m` and `inference:client_seconds:*`.",
            "Long in the queue: add replicas. Long at the client alone: the network, the proxy or the "
            "client.",
            (
                Query(promised(TIMES), "Promised"),
                Query(KEPT_TIMES, "Measured"),
                Query(MET_TIMES, "Kept", unit="none"),
            ),
            "s",
            kind="table",
            alerts=("InferenceQueueTime", "InferenceClientLatency"),
            words=MET,
            columns=COLUMNS,
            height=7,
        ),
    ),
)


def burn_panel(slo: str, title: str, shows: str) -> Panel:
    return Panel(
        title,
        f"{shows} 1 would use the budget up exactly at the end of `slo.window`. The lines are where the "
        "alerts speak: 14.4 and 6 page, 1 asks for a ticket.",
        f'`inference:slo_errors:ratio_rate*{{slo="{slo}"}}` over what `inference:slo:objective` allows; the '
        "worst region and model.",
        "A short window alone is a spike, and over. Two windows above a line are an alert.",
        tuple(Query(burn(slo, window), window, needs=NEEDS[slo]) for window in ("5m", "1h", "6h", "3d")),
        "none",
        alerts=("InferenceErrorBudgetBurn",),
        decimals=2,
        first="transparent",
        steps=BURN_STEPS,
        lines=True,
        width=8,
    )


BUDGET = Row(
    "Error budget",
    (
        Panel(
            "Error budget left",
            "The course of what is left of the errors that each objective allows over `slo.window`.",
            "`inference:slo_error_budget:remaining`; the worst model of each region.",
            "A steep fall: an incident. A slow one: the service is a little worse than promised all the "
            "time.",
            (
                Query(
                    f"min by (slo, {WHERE}) (inference:slo_error_budget:remaining{{{MODEL}}})",
                    f"{{{{slo}}}} {WHO}",
                ),
            ),
            "percentunit",
            alerts=("InferenceErrorBudgetBurn",),
            decimals=1,
            minimum=None,
            width=8,
        ),
        burn_panel(
            "availability", "Burn rate: availability", "How fast failed requests use the error budget up."
        ),
        burn_panel("latency", "Burn rate: latency", "How fast late answers use the error budget up."),
    ),
)

TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests by region",
            "Requests a second, answered or not.",
            "`inference:requests:rate5m`.",
            "A region that falls while others rise: the load balancer took it out. All fall: the clients.",
            (Query(f"sum by ({WHERE}) (inference:requests:rate5m{{{MODEL}}})", WHO),),
            "reqps",
            alerts=("InferenceNoPodAnswers", "InferenceMetricsMissing"),
            width=8,
            stacked=True,
        ),
        Panel(
            "Failures by reason",
            "Requests a second that Triton did not answer. CANCELED: the client gave up, which no objective "
            "counts.",
            "`inference:request_failures:rate5m`; `inference:requests_refused:rate5m` adds to REJECTED what "
            "found "
            "the queue full, which Triton shows in its traces alone.",
            "Refused: add replicas. BACKEND: read the pods' logs.",
            (
                Query(f"sum by (reason) (inference:request_failures:rate5m{{{MODEL}}})", "{{reason}}"),
                Query(f"sum(inference:requests_refused:rate5m{{{MODEL}}})", "refused, with a full queue's"),
            ),
            "reqps",
            alerts=("InferenceRequestsRejected", "InferenceErrorBudgetBurn"),
            width=8,
        ),
        Panel(
            "Availability by region",
            "The share of requests that were answered, over 5 minutes, with the objective.",
            '`inference:slo_errors:ratio_rate5m{slo="availability"}` and `inference:slo:objective`.',
            "One region: its pods. All at once: what was rolled out last.",
            (
                Query(
                    f"1 - {errors('availability', '5m')}",
                    WHO,
                ),
                objective("availability", "objective", at_least=True),
            ),
            "percentunit",
            alerts=("InferenceErrorBudgetBurn",),
            decimals=3,
            minimum=None,
            maximum=1,
            width=8,
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel(
            "Latency at the server",
            "Percentiles of the time in Triton over all pods, the slowest region's, with the threshold that "
            "the latency objective speaks of.",
            "`inference:server_seconds:*`, from the histogram `inference_server_duration_seconds`, and "
            "`inference:slo:objective`.",
            "p99 alone: a full queue or a slow pod. All percentiles: batches take longer than they did.",
            (
                *percentiles("server", MODEL),
                objective("latency.server.threshold", "objective"),
            ),
            "s",
            alerts=("InferenceErrorBudgetBurn",),
            width=8,
        ),
        Panel(
            "Latency at the server by region, p99",
            "The time in Triton that 99 of 100 requests stay below, in each region.",
            "`inference:server_seconds:p99_5m` and `inference:slo:objective`.",
            "One region is slower: its load, its GPUs (GPU dashboard) or its engine.",
            (
                Query(f"max by ({WHERE}) (inference:server_seconds:p99_5m{{{MODEL}}})", WHO),
                objective("latency.server.threshold", "objective"),
            ),
            "s",
            alerts=("InferenceErrorBudgetBurn",),
            width=8,
        ),
        Panel(
            "Time in the queue by region",
            "How long a request waits in Triton's queue, as a mean, with the objective.",
            "`inference:queue_seconds:mean5m` and `inference:slo:objective`.",
            "Pods get more than they can serve: add replicas, or find out why a batch takes longer.",
            (
                Query(f"max by ({WHERE}) (inference:queue_seconds:mean5m{{{MODEL}}})", WHO),
                objective("queueTime", "objective"),
            ),
            "s",
            alerts=("InferenceQueueTime",),
            width=8,
        ),
        Panel(
            "Latency at the client",
            "Percentiles that the load test's clients see, in the slowest region, each with its objective. "
            "Empty without a load test.",
            "`inference:client_seconds:*`, from the load test's workers, and `inference:slo:objective`.",
            "Compare with the server's: what the server did not spend is network, proxy or client.",
            (
                *percentiles("client", RELEASE),
                *(objective(f"latency.client.{name}", f"objective {name}") for name in ("p50", "p95", "p99")),
            ),
            "s",
            alerts=("InferenceClientLatency",),
            width=16,
        ),
        Panel(
            "Alerts firing by name",
            'Which of this chart\'s alerts fire, on how many objects. "none" says that Prometheus was asked.',
            "Prometheus' own `ALERTS`.",
            "Each has a runbook of its name.",
            (
                Query(
                    or_none(f"count by (alertname) ({FIRING})", "alertname", f"up{{{RELEASE}}}"),
                    "{{alertname}}",
                ),
            ),
            "none",
            kind="bargauge",
            first=GOOD,
            steps=((1.0, BAD),),
            width=8,
        ),
    ),
)

BOARD = Board(
    "overview",
    "Inference: overview",
    "Objectives, error budgets, traffic and latency of every region.",
    (PROMISES, BUDGET, TRAFFIC, LATENCY),
    (REGION, NAMESPACE, MODEL_NAME),
)
