"""The report's plots, as SVG text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from model_tools.slo.measure import Measurement
from model_tools.slo.prometheus import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (5.6, 2.9)  # inches: half of a page 1200 px wide
PODS = ("#2563eb", "#0d9488", "#9333ea", "#ea580c", "#64748b", "#be185d")
PERCENTILES = {"p50": "#93c5fd", "p95": "#3b82f6", "p99": "#1e3a8a"}
PARTS = {"queue": "#f59e0b", "input": "#a5b4fc", "infer": "#4f46e5", "output": "#c7d2fe"}
LIMIT, INK, GRID = "#dc2626", "#334155", "#e2e8f0"


def look(name: str, **changes: Any) -> dict[str, Any]:
    """matplotlib's settings for a plot, with changes to them. name: the plot's, of no other on its page."""
    return {
        "svg.fonttype": "none",  # text stays text: small, sharp, searchable
        "svg.hashsalt": name,  # ids differ between plots of one page
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "xtick.color": INK,
        "ytick.color": INK,
        "lines.linewidth": 1.6,
        **changes,
    }


def svg(figure: Figure) -> str:
    """The element that goes into a page. The same figure gives the same text."""
    import io

    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def plots(measurement: Measurement, thresholds: dict[str, float]) -> dict[str, str]:
    """SVG by plot name, those without data left out. thresholds: by objective, drawn where in view."""
    drawers: dict[str, Callable[[Measurement, dict[str, float]], str | None]] = {
        "throughput": _throughput,
        "latency": _latency,
        "server": _server,
        "batch": _batch,
    }
    drawn = {name: draw(measurement, thresholds) for name, draw in drawers.items()}
    return {name: svg for name, svg in drawn.items() if svg}


def _throughput(measurement: Measurement, thresholds: dict[str, float]) -> str | None:
    pods = measurement.series.get("throughput", [])
    history = (measurement.load or {}).get("history", [])
    if not pods and not history:
        return None
    with _figure("throughput", "requests/s", measurement) as (axes, finish):
        for colour, series in zip(_cycle(PODS), pods, strict=False):
            axes.plot(_since(measurement, series.times), series.values, color=colour, label=_pod(series))
        if history:
            times = _since(measurement, [point["time"] for point in history])
            axes.plot(
                times,
                [point["requests_per_second"] for point in history],
                color=INK,
                label="all, at the client",
            )
        _limit(axes, thresholds.get("throughput"), "at least")
        return finish()


def _latency(measurement: Measurement, thresholds: dict[str, float]) -> str | None:
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for point in (measurement.load or {}).get("history", []):
        for name in PERCENTILES:
            if point["latency"].get(name) is not None:
                times, values = lines.setdefault(name, ([], []))
                times.append(point["time"])
                values.append(point["latency"][name])
    if not lines:
        lines = {
            name: (series[0].times, series[0].values)
            for name in PERCENTILES
            if (series := measurement.series.get(f"client.{name}"))
        }
    if not lines:
        return None
    unit, scale = _unit(value for _, values in lines.values() for value in values)
    with _figure("latency", unit, measurement) as (axes, finish):
        for name, (times, values) in lines.items():
            scaled = [value * scale for value in values]
            axes.plot(_since(measurement, times), scaled, color=PERCENTILES[name], label=name)
        limit = thresholds.get("latency.client.p99")
        _limit(axes, limit and limit * scale, "p99 at most", unit)
        return finish()


def _server(measurement: Measurement, thresholds: dict[str, float]) -> str | None:
    parts = {name: measurement.series[name][0] for name in PARTS if measurement.series.get(name)}
    if "infer" not in parts:
        return None
    times = parts["infer"].times
    stacked = [_at(series, times) for series in parts.values()]
    unit, scale = _unit(sum(column) for column in zip(*stacked, strict=True))
    with _figure("server", unit, measurement) as (axes, finish):
        axes.stackplot(
            _since(measurement, times),
            [[value * scale for value in values] for values in stacked],
            labels=list(parts),
            colors=[PARTS[name] for name in parts],
            linewidth=0,
        )
        return finish()


def _batch(measurement: Measurement, thresholds: dict[str, float]) -> str | None:
    pods = measurement.series.get("batch", [])
    if not pods:
        return None
    with _figure("batch", "requests a batch", measurement) as (axes, finish):
        for colour, series in zip(_cycle(PODS), pods, strict=False):
            axes.plot(_since(measurement, series.times), series.values, color=colour, label=_pod(series))
        _limit(axes, thresholds.get("batchSize"), "at least")
        return finish()


@contextmanager
def _figure(name: str, unit: str, measurement: Measurement) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Axes to draw on, and what turns them into SVG text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(look(name)):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel("seconds into the load")
        axes.set_ylabel(unit)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)

        def finish() -> str:
            axes.set_xlim(0, max(1.0, measurement.end - measurement.start))
            axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.02 or 1)
            figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8, handlelength=1.4)
            return svg(figure)

        yield axes, finish


def _limit(axes: Axes, value: float | None, word: str, unit: str = "") -> None:
    """The objective as a dashed line, unless it is so far away that it would flatten what was measured."""
    if value is None:
        return
    if value <= axes.get_ylim()[1] * 2.5:
        label = f"objective: {word} {value:g} {unit}".rstrip()
        axes.axhline(value, color=LIMIT, linewidth=1.2, linestyle=(0, (4, 3)), label=label)


def _unit(seconds: Iterable[float]) -> tuple[str, float]:
    """The unit to plot times in, and what seconds are multiplied by for it."""
    return ("s", 1.0) if max(seconds, default=0) >= 1 else ("ms", 1000.0)


def _since(measurement: Measurement, times: list[float]) -> list[float]:
    return [when - measurement.start for when in times]


def _at(series: Series, times: list[float]) -> list[float]:
    """The series' values at those times, 0 where it has none."""
    values = dict(zip(series.times, series.values, strict=True))
    return [values.get(when, 0.0) for when in times]


def _pod(series: Series) -> str:
    """A pod's name without the Deployment's, which all share."""
    name = series.labels.get("pod") or series.labels.get("instance") or "server"
    return f"pod …{name[-5:]}" if series.labels.get("pod") else name


def _cycle(colours: tuple[str, ...]) -> Any:
    from itertools import cycle

    return cycle(colours)
