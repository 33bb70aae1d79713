"""The ladder as a table, as sentences and as plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_tools.ladder.climb import Verdict, verdict_record
from model_tools.tuning.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT, REJECTED = "#2563eb", "#94a3b8"


def write(
    folder: Path, verdicts: Sequence[Verdict], accuracy: Mapping[str, float], facts: Mapping[str, Any]
) -> list[Path]:
    """Writes ladder.json, ladder.md and the plots; returns their paths.

    accuracy: top-1 in per cent by rung, of those that have an evaluation. facts: what was measured, and how.
    """
    record = {
        **facts,
        "rungs": [
            {**verdict_record(verdict), "top1": accuracy.get(verdict.step.rung.name)} for verdict in verdicts
        ],
    }
    files = {
        "ladder.json": json.dumps(record, indent=2) + "\n",
        "ladder.md": markdown(verdicts, accuracy, facts),
    }
    files |= {f"{name}.svg": text for name, text in plots(verdicts, accuracy).items()}
    written = []
    for name, text in files.items():
        aside = folder / f".{name}.part"
        aside.write_text(text, encoding="utf-8")
        written.append(aside.replace(folder / name))
    return written


def markdown(verdicts: Sequence[Verdict], accuracy: Mapping[str, float], facts: Mapping[str, Any]) -> str:
    heads = ["rung", "requests/s", "times the one before", "times the baseline", "p50", "p99"]
    processor = any(verdict.processor is not None for verdict in verdicts)
    heads += ["queue", "compute", "batch", *(["processor"] if processor else [])]
    heads += [*(["top-1"] if accuracy else []), "verdict"]
    rows = [heads, ["---"] * len(heads)]
    for verdict in verdicts:
        top1 = accuracy.get(verdict.step.rung.name)
        rows.append(
            [
                verdict.step.rung.name,
                _number(verdict.mean("throughput").mean),
                _times(verdict.throughput) if verdict.against else "1",
                _times(verdict.to_baseline) if verdict.against else "1",
                *(_milliseconds(verdict.median(name)) for name in ("p50", "p99", "queue", "compute")),
                f"{verdict.median('batch'):.1f}",
                *([_milliseconds(verdict.processor or 0)] if processor else []),
                *([f"{top1:.1f} %" if top1 is not None else ""] if accuracy else []),
                "kept" if verdict.kept else f"rejected: {verdict.reason}",
            ]
        )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    said = "\n".join(f"- {sentence(verdict, accuracy)}" for verdict in verdicts)
    shown = ", ".join(f"{key} {value}" for key, value in facts.items() if not isinstance(value, dict | list))
    return f"# The ladder\n\n{shown}\n\n{table}\n\n{said}\n"


def sentence(verdict: Verdict, accuracy: Mapping[str, float]) -> str:
    """What one rung bought, and what it cost."""
    rung = verdict.step.rung
    if verdict.against is None:
        return (
            f"{rung.name} ({rung.title.rstrip('.')}) is what the others are compared with:"
            f" {_number(verdict.mean('throughput').mean)} requests a second, p99"
            f" {_milliseconds(verdict.median('p99'))}."
        )
    bought = f"{_times(verdict.throughput)} times the throughput of {verdict.against}"
    costs = []
    if verdict.p99.above_one:
        costs.append(f"{_times(verdict.p99)} times its p99")
    before, now = accuracy.get(verdict.against), accuracy.get(rung.name)
    if before is not None and now is not None and now < before:
        costs.append(f"{before - now:.2f} points of top-1")
    gained = f", with a p99 {_times(verdict.p99)} times as long" if verdict.p99.below_one else ""
    cost = f"and cost {' and '.join(costs)}" if costs else "at no cost beyond the noise"
    if not verdict.kept:
        return f"{rung.name} ({rung.title.rstrip('.')}) is rejected, {verdict.reason}: it gave {bought}."
    return f"{rung.name} ({rung.title.rstrip('.')}) bought {bought}{gained}, {cost}."


def plots(verdicts: Sequence[Verdict], accuracy: Mapping[str, float]) -> dict[str, str]:
    """SVG by name: throughput against p99, latency by its parts, and accuracy where it is known."""
    drawn = {"throughput": _throughput(verdicts), "latency": _latency(verdicts)}
    known = [verdict for verdict in verdicts if verdict.step.rung.name in accuracy]
    if len(known) > 1:
        drawn["accuracy"] = _accuracy(known, accuracy)
    return drawn


def _throughput(verdicts: Sequence[Verdict]) -> str:
    import matplotlib

    from model_tools.slo.plots import look, svg

    with matplotlib.rc_context(look("ladder-throughput")):
        figure, axes = _figure("p99 at the client, ms", "requests a second")
        kept = [verdict for verdict in verdicts if verdict.kept]
        axes.plot(
            [verdict.median("p99") * 1000 for verdict in kept],
            [verdict.mean("throughput").mean for verdict in kept],
            color=KEPT, linewidth=1, alpha=0.4,
        )  # fmt: skip
        for verdict in verdicts:
            throughput, p99 = verdict.mean("throughput"), verdict.median("p99") * 1000
            colour = KEPT if verdict.kept else REJECTED
            spread = throughput.mean - throughput.low if throughput.count > 1 else 0
            axes.errorbar([p99], [throughput.mean], yerr=[spread], fmt="o", color=colour, capsize=3)
            axes.annotate(
                verdict.step.rung.name, (p99, throughput.mean), xytext=(6, 5), textcoords="offset points",
                fontsize=8, color=colour,
            )  # fmt: skip
        axes.margins(x=0.25)
        axes.set_ylim(bottom=0)
        return svg(figure)


def _latency(verdicts: Sequence[Verdict]) -> str:
    import matplotlib

    from model_tools.slo.plots import PARTS, look, svg

    with matplotlib.rc_context(look("ladder-latency")):
        figure, axes = _figure("mean time of a request in Triton, ms", "")
        left = [0.0] * len(verdicts)
        names = [verdict.step.rung.name for verdict in verdicts]
        for part, colour in PARTS.items():
            widths = [verdict.median(part) * 1000 for verdict in verdicts]
            axes.barh(names, widths, left=left, color=colour, label=part)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8, handlelength=1.4)
        return svg(figure)


def _accuracy(verdicts: Sequence[Verdict], accuracy: Mapping[str, float]) -> str:
    import matplotlib

    from model_tools.slo.plots import look, svg

    with matplotlib.rc_context(look("ladder-accuracy")):
        figure, axes = _figure("requests a second", "top-1, %")
        for verdict in verdicts:
            name = verdict.step.rung.name
            place = (verdict.mean("throughput").mean, accuracy[name])
            colour = KEPT if verdict.kept else REJECTED
            axes.plot(*[[value] for value in place], "o", color=colour)
            axes.annotate(name, place, xytext=(6, 5), textcoords="offset points", fontsize=8, color=colour)
        axes.margins(x=0.25, y=0.3)
        return svg(figure)


def _figure(across: str, up: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    from model_tools.slo.plots import GRID

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def _times(found: Interval) -> str:
    if found.count < 2:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _milliseconds(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.2g} ms"
