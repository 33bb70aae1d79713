"""Asks a Prometheus every query of every dashboard: is it accepted, and does it find anything?

Which panels must have data depends on what is there: `inventory` looks which exporters Prometheus knows, and
a query whose exporters are all among them has to return something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grafana.metrics import METRICS
from grafana.parts import Board, Panel, Query
from grafana.variables import Window, filled
from model_tools.console import BadInput
from model_tools.slo.prometheus import NoData, Prometheus, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

# Which series of a source count, where others export the same: a CPU limit of KEDA is none of Triton.
ONLY = {"CPU limit": ', pod=~".+-triton-.+"'}


@dataclass(frozen=True)
class Answer:
    """What one query got. error: why Prometheus refused it. missing: what it needs that is not there."""

    query: Query
    sent: str
    series: list[Series] = field(default_factory=list)
    error: str = ""
    missing: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """Why this is not what the dashboard's reader should see, in one line; empty where it is."""
        if self.error:
            return self.error
        if not self.series and not self.missing:
            return f"no data, although everything it needs is there: {' '.join(self.sent.split())}"
        return ""


@dataclass(frozen=True)
class Finding:
    """One panel with its answers, in the order of its queries."""

    board: Board
    panel: Panel
    answers: list[Answer]

    @property
    def has_data(self) -> bool:
        """Whether there is anything beside promises to look at."""
        return any(answer.series for answer in self.answers if not answer.query.objective)

    @property
    def faults(self) -> list[str]:
        return [
            f"{self.board.name}, {self.panel.title!r}, {answer.query.legend}: {answer.fault}"
            for answer in self.answers
            if answer.fault
        ]

    @property
    def missing(self) -> list[str]:
        return sorted({name for answer in self.answers for name in answer.missing})

    def record(self) -> dict[str, Any]:
        """For machines."""
        return {
            "dashboard": self.board.name,
            "panel": self.panel.title,
            "has_data": self.has_data,
            "queries": [
                {
                    "expr": answer.sent,
                    "legend": answer.query.legend,
                    "series": len(answer.series),
                    "error": answer.error,
                    "missing": list(answer.missing),
                }
                for answer in self.answers
            ],
        }


def check(
    prometheus: Prometheus,
    boards: Iterable[Board],
    window: Window,
    choices: Mapping[str, Sequence[str]] | None = None,
    there: Iterable[str] | None = None,
) -> list[Finding]:
    """Asks everything. there: the sources that are there; by default what `inventory` sees.

    A panel whose `faults` are not empty is broken: refused by Prometheus, or empty without an excuse. Raises
    BadInput where Prometheus does not answer at all.
    """
    prometheus.samples("vector(1)", window.end)
    known = set(inventory(prometheus, window) if there is None else there)
    return [
        Finding(
            board,
            panel,
            [_ask(prometheus, panel, query, window, choices or {}, known) for query in panel.queries],
        )
        for board in boards
        for panel in board.panels
    ]


def inventory(prometheus: Prometheus, window: Window) -> set[str]:
    """The sources of metrics.py of which Prometheus has any metric in the window."""
    sources: dict[str, set[str]] = {}
    for metric in METRICS:
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        sources.setdefault(metric.source, set()).add(name)
    return {
        source
        for source, names in sources.items()
        if _exists(prometheus, names, window, ONLY.get(source, ""))
    }


def faults(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        yield from finding.faults


def _exists(prometheus: Prometheus, names: set[str], window: Window, only: str) -> bool:
    span = max(1, round(window.end - window.start))
    try:
        prometheus.samples(
            f'count(last_over_time({{__name__=~"{"|".join(sorted(names))}"{only}}}[{span}s]))', window.end
        )
    except NoData:
        return False
    return True


def _ask(
    prometheus: Prometheus,
    panel: Panel,
    query: Query,
    window: Window,
    choices: Mapping[str, Sequence[str]],
    there: set[str],
) -> Answer:
    sent = filled(query.expr, window, choices)
    missing = tuple(sorted(query.requires - there))
    try:
        if panel.instant:
            samples = prometheus.samples(sent, window.end)
            series = [Series(sample.labels, [window.end], [sample.value]) for sample in samples]
        else:
            series = prometheus.series(sent, window.start, window.end, window.step)
    except NoData:
        return Answer(query, sent, missing=missing)
    except BadInput as refused:
        return Answer(query, sent, error=str(refused), missing=missing)
    return Answer(query, sent, series, missing=missing)
