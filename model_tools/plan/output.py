"""A plan as people and machines take it: tables, JSON, a page with plots, and values files."""

from __future__ import annotations

import html
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput
from model_tools.files import written_aside
from model_tools.plan.planning import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (11.2, 6.4)  # inches: a page 1200 px wide
_REASONS = {
    "usual": "the usual share of what a pod serves",
    "growth": "the day's rise while a node starts",
}
_SHOWN = 5  # regions with a colour of their own
_EVERY = 20  # steps of a day from one point of a plot to the next


def record(plan: Plan) -> dict[str, Any]:
    """What --json prints: seconds, requests a second, and currency as the traffic has it."""
    pod, curve, loss = plan.pod, plan.pod.curve, plan.worst_loss
    return {
        "curve": {
            "name": curve.name, "gpu": curve.gpu, "precision": curve.precision, "kind": curve.kind,
            "sources": list(curve.sources), "notes": list(curve.notes),
        },
        "objectives": vars(plan.objectives),
        "pod": {
            "batching": _batching(plan), "instances": pod.instances, "balancer": pod.balancer,
            "requests_per_second": round(pod.rate, 1), "saturation": round(pod.saturation, 1),
            "full": round(plan.fleet.limit, 1),
        },
        "autoscaling": {
            "requestsPerSecond": plan.fleet.target, "share": round(plan.reasons.share, 4),
            "allowed": {name: round(value, 4) for name, value in vars(plan.reasons).items()},
            "deciding": plan.reasons.deciding,
        },
        "regions": [vars(region) for region in plan.regions],
        "day": {
            "requests": round(plan.day.requests), "on_time": plan.day.on_time_share,
            "refused": plan.day.refused_share, "most_nodes": int(plan.day.nodes.sum(axis=0).max()),
            "highest": round(float(plan.day.demand.sum(axis=0).max()), 1), "node_start": plan.node_start,
        },
        "losses": [
            {"region": each.region, "start": each.start, "on_time": each.on_time, "refused": each.refused,
             "moved": round(each.moved, 1), "round_trip": round(each.round_trip, 4)}
            for each in plan.losses
        ],
        "worst_loss": loss.region if loss else None,
        "cost_a_month": round(plan.cost, 2),
        "cost_a_million_requests": round(plan.cost_of_a_million, 6),
    }  # fmt: skip


def values(plan: Plan) -> dict[str, dict[str, Any]]:
    """What the plan says in the chart's values, by region: to lay over the region's own."""
    found, target = {}, plan.fleet.target
    for region in plan.regions:
        found[region.name] = {
            "region": region.name,
            "model": {"batching": _batching(plan), "instances": {"count": plan.pod.instances}},
            "triton": {"replicas": region.least},
            "autoscaling": {
                "kind": "keda",
                "minReplicas": region.least,
                "maxReplicas": region.most,
                "requestsPerSecond": int(target) if target.is_integer() else target,
            },
        }
    return found


def check_folder(folder: Path) -> None:
    """Raises BadInput for a folder that holds something other than a plan, and where nothing can draw."""
    if find_spec("matplotlib") is None:
        raise BadInput("--output: plots need matplotlib: pip install 'inference-system[slo]'")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "plan.json").is_file():
        raise BadInput(f"{folder}: is not empty and no plan; it would be replaced")


def write(plan: Plan, folder: Path) -> None:
    """Writes index.html, plan.svg, plan.json and values/REGION.yaml; a folder that is there is replaced.

    Raises BadInput for a folder that holds something other than a plan.
    """
    import yaml

    check_folder(folder)
    picture = draw(plan)
    with written_aside(folder) as aside:
        (aside / "plan.json").write_text(json.dumps(record(plan), indent=2) + "\n")
        (aside / "plan.svg").write_text(picture)
        (aside / "index.html").write_text(_page(plan, picture))
        (aside / "values").mkdir()
        for name, content in values(plan).items():
            (aside / "values" / f"{name}.yaml").write_text(
                "# By model-tools plan, to lay over the region's own values.\n"
                + yaml.safe_dump(content, sort_keys=False)
            )


def show(plan: Plan) -> None:
    """The plan as tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140  # a file has no width to fit into
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    for line in summary(plan).items():
        facts.add_row(*line)
    console.print(facts)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in heads(plan):
        table.add_column(name, justify="right" if table.columns else "left")
    for row in rows(plan):
        table.add_row(*row)
    console.print()
    console.print(table)


def summary(plan: Plan) -> dict[str, str]:
    """The plan in a few lines, by what they are about."""
    pod, curve, batching = plan.pod, plan.pod.curve, plan.pod.batching
    lines = {
        "GPU": f"{curve.gpu}, {curve.precision}: {curve.kind} figures",
        "objectives": str(plan.objectives),
        "batching": f"at most {batching.max_size} on {pod.instances} instances,"
        f" delay {batching.max_queue_delay} µs, queue {batching.queue.size} requests"
        f" and {batching.queue.timeout / 1000:.0f} ms",
        "a pod": f"serves {pod.rate:,.0f}/s within the objectives, gets {plan.fleet.target:,.0f}/s"
        f" ({plan.reasons.share * 100:.0f} %, for {_REASONS[plan.reasons.deciding]}),"
        f" is full at {plan.fleet.limit:,.0f}/s",
        "a day": f"{plan.day.requests / 1e9:,.2f} billion requests, at most"
        f" {plan.day.demand.sum(axis=0).max():,.0f}/s, at most {plan.day.nodes.sum(axis=0).max()} nodes,"
        f" {_percent(plan.day.on_time_share)} on time",
        "cost": f"{plan.cost:,.0f} a month, {plan.cost_of_a_million:.3f} a million requests",
    }
    if loss := plan.worst_loss:
        lines["a loss"] = (
            f"of any region is survived; the hardest is {loss.region}'s at {_clock(loss.start)} UTC:"
            f" {_percent(loss.on_time)} on time in that hour, up to {loss.moved:,.0f}/s go elsewhere,"
            f" {loss.round_trip * 1000:.0f} ms there and back"
        )
    else:
        lines["a loss"] = "of a region is not planned for"
    return lines


def heads(plan: Plan) -> tuple[str, ...]:
    """Of the columns of `rows`."""
    percentile = f"p{plan.objectives.percentile * 100:g}"
    return (
        "region",
        "peak/s",
        "pods",
        "nodes, mean",
        "at most",
        "p50",
        percentile,
        "on time",
        "spilled",
        "cost a month",
    )


def rows(plan: Plan) -> list[list[str]]:
    """A row a region."""
    return [
        [
            region.name, f"{region.peak:,.0f}", f"{region.least} to {region.most}",
            f"{region.nodes:,.1f}", f"{region.busiest:,}", f"{region.p50 * 1000:.1f} ms",
            f"{region.percentile * 1000:.1f} ms", _percent(region.on_time), _percent(region.spilled),
            f"{region.cost:,.0f}",
        ]
        for region in plan.regions
    ]  # fmt: skip


def draw(plan: Plan) -> str:
    """One SVG: a pod's latency by load, the day's requests, its nodes, and the hour of the hardest loss."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    from model_tools.slo.plots import GRID, look, svg

    with matplotlib.rc_context(look("plan")):
        figure = Figure(figsize=SIZE, layout="constrained")
        panels = figure.subplots(2, 2)
        for axes in panels.flat:
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=0)
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        _draw_pod(panels[0][0], plan)
        _draw_requests(panels[0][1], plan)
        _draw_nodes(panels[1][0], plan)
        _draw_loss(panels[1][1], plan)
        for axes in panels.flat:
            axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.02 or 1)
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=7.5,
                handlelength=1.2, borderaxespad=0, columnspacing=1.2,
            )  # fmt: skip
        return svg(figure)


def _draw_pod(axes: Axes, plan: Plan) -> None:
    from model_tools.slo.plots import INK, LIMIT, PERCENTILES

    table, objectives = plan.table, plan.objectives
    shown = table.rates <= plan.pod.saturation * 1.05
    for share in sorted({0.5, 0.95, objectives.percentile}):
        name = f"p{share * 100:g}"
        colour = PERCENTILES.get(name, PERCENTILES["p99"])
        axes.plot(table.rates[shown], table.percentiles(share)[shown] * 1000, color=colour, label=name)
    axes.axhline(
        objectives.threshold * 1000, color=LIMIT, linewidth=1.2, linestyle=(0, (4, 3)), label="objective"
    )
    axes.axvline(plan.fleet.target, color=INK, linewidth=1, linestyle=(0, (1, 2)), label="planned")
    axes.set_xlabel("requests/s on one pod")
    axes.set_ylabel("latency, ms")


def _draw_requests(axes: Axes, plan: Plan) -> None:
    from model_tools.slo.plots import GRID, INK, PODS

    day, names = plan.day, plan.traffic.names
    order = sorted(range(len(names)), key=lambda index: -plan.regions[index].peak)
    parts = [day.demand[index] for index in order[:_SHOWN]]
    labels = [names[index] for index in order[:_SHOWN]]
    colours = list(PODS[:_SHOWN][: len(parts)])
    if others := order[_SHOWN:]:
        parts.append(day.demand[others].sum(axis=0))
        labels.append(f"{len(others)} others")
        colours.append(GRID)
    hours = day.times[::_EVERY] / 3600
    shown = [part[::_EVERY] for part in parts]
    axes.stackplot(hours, shown, labels=labels, colors=colours, linewidth=0)
    serve = day.ready.sum(axis=0)[::_EVERY] * plan.fleet.limit
    axes.plot(hours, serve, color=INK, linewidth=1.1, label="ready pods serve")
    _hours(axes, "requests/s")


def _draw_nodes(axes: Axes, plan: Plan) -> None:
    from model_tools.slo.plots import INK, PARTS

    day = plan.day
    nodes, ready, demand = (column.sum(axis=0)[::_EVERY] for column in (day.nodes, day.ready, day.demand))
    hours, needed = day.times[::_EVERY] / 3600, demand / plan.fleet.limit
    axes.plot(hours, nodes, color=INK, label="nodes")
    axes.plot(hours, ready, color=PARTS["infer"], linewidth=1.1, label="pods ready")
    axes.fill_between(hours, needed, color=PARTS["output"], linewidth=0, label="pods that the load needs")
    _hours(axes, "nodes and pods, all regions")


def _draw_loss(axes: Axes, plan: Plan) -> None:
    from model_tools.slo.plots import INK, LIMIT, PARTS

    loss = plan.worst_loss
    if loss is None:
        axes.bar([region.name for region in plan.regions], [region.cost for region in plan.regions],
                 color=PARTS["infer"], label="cost a month")  # fmt: skip
        axes.set_ylabel("cost")
        return
    day = loss.day
    minutes = (day.times - loss.start) / 60
    axes.plot(minutes, day.demand.sum(axis=0), color=INK, label="requests/s")
    axes.plot(
        minutes, day.ready.sum(axis=0) * plan.fleet.limit, color=PARTS["infer"], label="ready pods serve"
    )
    axes.plot(minutes, day.spilled.sum(axis=0), color=PARTS["queue"], label="served elsewhere")
    axes.plot(minutes, day.late.sum(axis=0), color=LIMIT, label="late or refused")
    axes.set_xlabel(f"minutes from the loss of {loss.region}, {_clock(loss.start)} UTC")
    axes.set_ylabel("requests/s")


def _hours(axes: Axes, what: str) -> None:
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 4))
    axes.set_xlabel("hour of the day, UTC")
    axes.set_ylabel(what)


def _page(plan: Plan, picture: str) -> str:
    from model_tools.slo.report import STYLE

    head = "".join(
        f'<th class="{"number" if index else "name"}">{_text(name)}</th>'
        for index, name in enumerate(heads(plan))
    )
    body = "".join(
        "<tr>" + "".join(
            f'<td class="{"number" if index else "name"}">{_text(cell)}</td>'
            for index, cell in enumerate(row)
        ) + "</tr>"
        for row in rows(plan)
    )  # fmt: skip
    facts = "".join(
        f'<tr><td class="name">{_text(name)}</td><td>{_text(text)}</td></tr>'
        for name, text in summary(plan).items()
    )
    sources = "".join(f"<li>{_text(text)}</li>" for text in (*plan.pod.curve.sources, *plan.pod.curve.notes))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Capacity plan</title>
<style>{STYLE} .name {{ width: 130px; white-space: nowrap; }}</style>
</head>
<body>
<main>
<header><h1>Capacity plan: {len(plan.regions)} region{"s" if len(plan.regions) > 1 else ""}</h1></header>
<section class="card"><table><tbody>{facts}</tbody></table></section>
<section class="card">{picture}</section>
<section class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>
<section class="card"><h2>Where the figures of the GPU come from: {_text(plan.pod.curve.kind)}</h2>
<ul>{sources}</ul></section>
</main>
</body>
</html>
"""


def _batching(plan: Plan) -> dict[str, Any]:
    batching = plan.pod.batching
    return {
        "maxSize": batching.max_size,
        "preferredSizes": list(batching.preferred_sizes),
        "maxQueueDelayMicroseconds": batching.max_queue_delay,
        "queue": {"maxSize": batching.queue.size, "timeoutMicroseconds": batching.queue.timeout},
    }


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60) % 1440
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _percent(share: float) -> str:
    """As many digits as tell 99.9 from 99.99, and never 100 for less than all."""
    text = f"{share * 100:.3f}".rstrip("0").rstrip(".")
    return f"{'99.999' if text == '100' and share < 1 - 1e-12 else text} %"


def _text(text: str) -> str:
    return html.escape(text)
