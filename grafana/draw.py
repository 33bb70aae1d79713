"""A panel's plot as SVG text, and the lines of its legend. Everything but plots is HTML: see page.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from typing import TYPE_CHECKING, Any

from grafana.check import Finding
from grafana.numbers import shown
from grafana.parts import Panel, Query
from grafana.variables import Window
from model_tools.slo.plots import GRID, LIMIT, look, svg
from model_tools.slo.prometheus import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN = 55.0  # pixels of a page's 24th part
PIXELS = 96.0  # of an inch
COLOURS = (
    "#2563eb", "#0d9488", "#ea580c", "#9333ea", "#ca8a04", "#be185d", "#64748b", "#16a34a", "#0891b2",
    "#7c2d12",
)  # fmt: skip
DASHES = ((0, (5, 3)), (0, (2, 2)), (0, (7, 2, 1, 2)))
FAR = 2.5  # a promise that is this many times above everything measured is left out, or it would flatten it


@dataclass(frozen=True)
class Line:
    """A legend's line. dashed: the place in DASHES, or None for a solid one."""

    name: str
    colour: str
    last: str
    dashed: int | None = None
    hidden: bool = False


def label(query: Query, series: Series) -> str:
    """A legend's text: {{label}} is the series' own."""
    import re

    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: series.labels.get(found[1], ""), query.legend)
    return " ".join(text.split()) or "(no labels)"


def draw(finding: Finding, window: Window) -> tuple[str, list[Line]]:
    """The plot of a panel that has data, and its legend."""
    import matplotlib
    from matplotlib.figure import Figure

    panel = finding.panel
    smaller = {"font.size": 8.5, "lines.linewidth": 1.5}
    with matplotlib.rc_context(look(f"{finding.board.name} {panel.title}", **smaller)):
        size = ((panel.width * COLUMN - 48) / PIXELS, (panel.height * 20) / PIXELS)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        lines = _stack(axes, finding, window) if panel.stacked else _lines(axes, finding)
        _scale(axes, panel, window)
        lines += _promises(axes, finding)
        _steps(axes, panel)
        _ticks(axes, panel)
        return svg(figure), lines


def _measured(finding: Finding) -> Iterator[tuple[Query, Series]]:
    for answer in finding.answers:
        if not answer.query.objective:
            for series in sorted(answer.series, key=lambda series: label(answer.query, series)):
                yield answer.query, series


def _lines(axes: Axes, finding: Finding) -> list[Line]:
    drawn = []
    for (query, series), colour in zip(_measured(finding), cycle(COLOURS), strict=False):
        single: dict[str, Any] = {"marker": "o", "markersize": 3} if len(series.times) == 1 else {}
        axes.plot(_times(series.times), series.values, color=colour, **single)
        drawn.append(_line(finding.panel, query, series, colour))
    return drawn


def _stack(axes: Axes, finding: Finding, window: Window) -> list[Line]:
    """Areas on top of each other; where a series has no value it is 0, as at a pod's start."""
    measured = list(_measured(finding))
    times = sorted({when for _, series in measured for when in series.times})
    values = []
    for _, series in measured:
        at = dict(zip(series.times, series.values, strict=True))
        values.append([at.get(when, 0.0) for when in times])
    colours = [colour for _, colour in zip(measured, cycle(COLOURS), strict=False)]
    axes.stackplot(_times(times), values, colors=colours, linewidth=0, alpha=0.85)
    return [
        _line(finding.panel, query, series, colour)
        for (query, series), colour in zip(measured, colours, strict=True)
    ]


def _promises(axes: Axes, finding: Finding) -> list[Line]:
    drawn = []
    answers = [answer for answer in finding.answers if answer.query.objective and answer.series]
    top = axes.get_ylim()[1]
    for place, answer in enumerate(answers):
        series = answer.series[0]
        hidden = min(series.values) > FAR * top
        dashes = place % len(DASHES)
        if not hidden:
            axes.plot(
                _times(series.times), series.values, color=LIMIT, linewidth=1.2, linestyle=DASHES[dashes]
            )
            top = max(top, max(series.values) * 1.05)
        drawn.append(_line(finding.panel, answer.query, series, LIMIT, dashes, hidden))
    if finding.panel.maximum is None:
        axes.set_ylim(top=top)
    low = [min(answer.series[0].values) for answer in answers]
    if finding.panel.minimum is None and low:
        axes.set_ylim(bottom=min(axes.get_ylim()[0], *low))
    return drawn


def _steps(axes: Axes, panel: Panel) -> None:
    """Where the alerts speak, as far as it is in view."""
    if panel.lines:
        for value, _ in panel.steps:
            if value <= axes.get_ylim()[1]:
                axes.axhline(value, color=LIMIT, linewidth=1, linestyle=DASHES[1])


def _scale(axes: Axes, panel: Panel, window: Window) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    axes.set_xlim(*_times([window.start, window.end]))
    ticks = AutoDateLocator(minticks=2, maxticks=max(3, panel.width // 2))
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(ticks, show_offset=False))
    low, high = axes.get_ylim()
    if panel.minimum is not None:
        low = panel.minimum
        # Nothing but zeros: matplotlib would show the neighbourhood of 0.
        high = high * 1.02 if axes.dataLim.y1 > low else low + 1
    if panel.maximum is not None:
        high = panel.maximum
    if panel.minimum is None and high - low < 1e-9:
        low, high = low - 0.01, high
    axes.set_ylim(low, high)


def _ticks(axes: Axes, panel: Panel) -> None:
    """Of the finished axis: promises may have made it longer."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    if panel.unit == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(_binary_step(axes.get_ylim()[1] / 5)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=panel.decimals == 0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, panel.unit, panel.decimals)))


def _binary_step(least: float) -> float:
    """A step of at least that many bytes that is round in KiB, MiB or GiB."""
    unit = 1.0
    while least >= 1000 * unit:
        unit *= 1024
    return next(step * unit for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1024) if step * unit >= least)


def _line(
    panel: Panel, query: Query, series: Series, colour: str, dashed: int | None = None, hidden: bool = False
) -> Line:
    last = shown(series.values[-1], panel.unit, panel.decimals)
    return Line(label(query, series), colour, last, dashed, hidden)


def _times(seconds: list[float]) -> Any:
    return [datetime.fromtimestamp(second, UTC) for second in seconds]
