"""What dashboards are made of: queries, panels, variables, and what they share.

A board is plain data. encode.py turns it into Grafana's JSON, check.py asks its queries, preview.py draws it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from grafana.metrics import by_series

# The chart puts monitoring.rules.runbooks in its place.
RUNBOOKS = "docs/runbooks"

# Selectors, without braces, by who exports a series. The release's own carry `region` if the release has one.
# The cluster's carry it only where Prometheus adds it to everything: without it a series is of any region.
RELEASE = 'namespace=~"$namespace", region=~"$region"'
MODEL = f'{RELEASE}, model=~"$model"'
CLUSTER = 'namespace=~"$namespace", region=~"$region|"'
NODES = 'region=~"$region|"'
TRITON_PODS = 'pod=~".+-triton-.+"'
LOADTEST_PODS = 'pod=~".+-loadtest-.+"'

# This chart's alerts that fire. Those of GPUs may have the namespace of who exports them.
ALERTS = f'alertstate="firing", {NODES}'
FIRING = (
    f'(ALERTS{{alertname=~"Inference.+", namespace=~"$namespace", {ALERTS}}}'
    f' or ALERTS{{alertname=~"InferenceGpu.+", {ALERTS}}})'
)

# Which release a number is of. Not the region alone: a release may have none, and a line needs a name.
WHERE, WHO = "namespace, region", "{{namespace}} {{region}}"

Kind = Literal["timeseries", "stat", "bargauge", "table"]
Unit = Literal["s", "reqps", "percentunit", "bytes", "watt", "joule", "celsius", "hertz", "short", "none"]

GOOD, FAIR, BAD, PLAIN = "green", "orange", "red", "blue"


@dataclass(frozen=True)
class Query:
    """One query of a panel. legend: with {{label}}; in a table the column's title.

    objective: a promise, drawn as a dashed line. needs: what must be there beside the exporters of its
    metrics. unit: of a table's column, where it is not the panel's.
    """

    expr: str
    legend: str
    objective: bool = False
    needs: frozenset[str] = frozenset()
    unit: Unit | None = None

    @property
    def series(self) -> frozenset[str]:
        """The series that it reads, of those that metrics.py knows."""
        words = set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_:]*", self.expr))
        return frozenset(words & by_series().keys())

    @property
    def requires(self) -> frozenset[str]:
        """What has to be there for it to return data: sources of metrics.py, and `needs`."""
        recorded = {"rules" for name in self.series if name.startswith("inference:")}
        return self.needs | recorded | {by_series()[name].source for name in self.series}


@dataclass(frozen=True)
class Panel:
    """shows, source, bad: what it shows, where the number is from, what to do when it is bad.

    width, height: in Grafana's grid, 24 columns wide. steps: (from this value on, colour) after the first
    colour, for numbers whose good and bad don't depend on an objective. words: (value, what to say for it,
    colour); in a table for its last column. minimum, maximum: of the axis, None where the numbers decide.
    columns: a table's labels, in order, with their titles.
    """

    title: str
    shows: str
    source: str
    bad: str
    queries: tuple[Query, ...]
    unit: Unit
    kind: Kind = "timeseries"
    alerts: tuple[str, ...] = ()
    width: int = 12
    height: int = 9
    stacked: bool = False
    decimals: int | None = None
    first: str = PLAIN
    steps: tuple[tuple[float, str], ...] = ()
    lines: bool = False
    words: tuple[tuple[int, str, str], ...] = ()
    minimum: float | None = 0
    maximum: float | None = None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def description(self) -> str:
        """Markdown."""
        books = "".join(f"\n\n[Runbook of {alert}]({RUNBOOKS}/{alert}.md)" for alert in self.alerts)
        return f"{self.shows}\n\n**From** {self.source}\n\n**When it is bad:** {self.bad}{books}"

    @property
    def instant(self) -> bool:
        """Whether only the newest value counts."""
        return self.kind != "timeseries"


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the dashboard's head: the values of a label.

    All of them is `.*`, which takes a series without the label too.
    """

    name: str
    title: str
    metric: str
    selector: str = ""

    @property
    def query(self) -> str:
        return f"label_values({self.metric}{{{self.selector}}}, {self.name})"


@dataclass(frozen=True)
class Board:
    """name: of the file and, after the prefix, the uid."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...]
    since: str = "now-3h"

    @property
    def uid(self) -> str:
        return f"inference-system-{self.name}"

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


REGION = Variable("region", "Region", "inference:slo:objective")
NAMESPACE = Variable("namespace", "Namespace", "inference:slo:objective", 'region=~"$region"')
MODEL_NAME = Variable("model", "Model", "nv_inference_request_success", RELEASE)
POD = Variable("pod", "Pod", "nv_inference_pending_request_count", RELEASE)
GPU_POD = Variable("pod", "Pod", "nv_gpu_utilization", RELEASE)


def rate(metric: str, selector: str, by: str = "", extra: str = "") -> str:
    """What a counter grows by a second, all its series together, or by these labels."""
    labels = f"{selector}, {extra}" if extra else selector
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(fraction: float, histogram: str, selector: str, by: str = "") -> str:
    """A percentile over everything that the selector takes, or by these labels: seconds."""
    buckets = rate(f"{histogram}_bucket", selector, f"le, {by}" if by else "le")
    return f"histogram_quantile({fraction:g}, {buckets})"


def percentiles(side: str, selector: str, prefix: str = "") -> tuple[Query, ...]:
    """What the rules record of a side, "client" or "server": of several releases the slowest."""
    return tuple(
        Query(f"max(inference:{side}_seconds:{name}_5m{{{selector}}})", f"{prefix}{name}")
        for name in ("p50", "p95", "p99")
    )


def objective(name: str, legend: str, at_least: bool = False) -> Query:
    """The promise as a line of its own. Of several releases the strictest, so that there is one line."""
    strictest = "max" if at_least else "min"
    return Query(
        f'{strictest}(inference:slo:objective{{objective="{name}", {RELEASE}}})', legend, objective=True
    )


def or_none(expr: str, label: str, present: str) -> str:
    """The query, or one series called "none" with the value 0 where it finds nothing.

    present: a query that finds something whenever the source of the numbers is there: without the source
    there is no "none" either.
    """
    none = f'label_replace(0 * count({present}), "{label}", "none", "", "")'
    return f"{expr}\nor\n{none} unless on () ({expr})"
