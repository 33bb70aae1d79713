"""docs/scale.md's table and plot, from what the measurements wrote down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.documents import between
from model_tools.console import BadInput, CheckFailed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "scale" / "record.json"
DOCUMENT = ROOT / "docs" / "scale.md"
PLOT = ROOT / "docs" / "images" / "scale.svg"
SIZE = (9.6, 4.0)  # inches: a page's width
TIMES = {
    "install": "all pods ready",
    "rollout": "rollout",
    "drain": "drain of a tenth",
}
PROGRAMS = ("API server", "etcd", "controller manager", "scheduler", "Prometheus", "kwok")


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row a figure, a column a size. A phase that a record lacks has empty cells."""
    rows = [
        ("nodes", [f"{record['nodes']:,}" for record in records]),
        ("---", ["---" for _ in records]),
        *((name, [_cell(of, record) for record in records]) for name, of in _ROWS.items()),
    ]
    return "\n".join(f"| {' | '.join([name, *cells])} |" for name, cells in rows)


def _cell(of: Any, record: dict[str, Any]) -> str:
    try:
        return str(of(record))
    except KeyError:
        return ""


def processors(record: dict[str, Any], phase: str, program: str | None = None) -> float:
    """Processors' seconds of a phase: of one program, or of all but the simulation itself."""
    usage = record[phase]["usage"]
    programs = [program] if program else [name for name in usage if name != "kwok"]
    return float(sum(usage[name]["processor"] for name in programs))


def memory(record: dict[str, Any], program: str) -> float:
    """The most MiB that a program held in any phase."""
    return max(float(record[phase]["usage"][program]["memory"]) for phase in TIMES)


def _kept(record: dict[str, Any]) -> str:
    promise, pods = record["rollout"]["promise"], record["rollout"]["pods"]
    return ", ".join(f"{pods[key]:,} ({promise[key]:,})" for key in ("most_pods", "fewest_serving"))


def _sent(record: dict[str, Any]) -> str:
    return f"{record['rollout']['slices sent']['service']['bytes'] / 2**20:.1f} MiB"


def _answer(record: dict[str, Any]) -> str:
    udp, tcp = record["endpoints"]["DNS over UDP"], record["endpoints"]["DNS over TCP"]
    whole = "the whole" if not udp["truncated"] else "cut short"
    return f"{whole}; {tcp['addresses']:,} in {tcp['bytes']:,} bytes"


_ROWS: dict[str, Any] = {
    "last pod created after": lambda r: f"{r['install']['pods']['created']:.0f} s",
    "last pod scheduled after": lambda r: f"{r['install']['pods']['scheduled']:.0f} s",
    "all pods ready after": lambda r: f"{r['install']['all ready']:.0f} s",
    "`helm upgrade --install` ended after (`--wait`)": lambda r: (
        f"{r['install']['helm']:.0f} s ({r['wait']})"
    ),
    "most pods on one node, nodes used": lambda r: (
        f"{max(r[phase]['pods']['most_on_a_node'] for phase in TIMES)}, {r['install']['nodes used']:,}"
    ),
    "rollout": lambda r: f"{r['rollout']['all ready']:.0f} s",
    "helm ended after": lambda r: f"{r['rollout']['helm']:.0f} s",
    "the same, if the control plane took no time": lambda r: f"{r['rollout']['shortest']:.0f} s",
    "most pods (promised), fewest ready (promised)": _kept,
    "nodes drained, in": lambda r: f"{r['drain']['nodes']:,}, {r['drain']['drained']:.0f} s",
    "fewest ready (budget's least)": lambda r: (
        f"{r['drain']['pods']['fewest_serving']:,} ({r['drain']['least']:,})"
    ),
    "one node more": lambda r: r["drain"]["one more"],
    "nodes back: all pods ready after": lambda r: f"{r['drain']['whole after']:.0f} s",
    "EndpointSlices of the Service, bytes": lambda r: (
        f"{r['endpoints']['service']['slices']}, {r['endpoints']['service']['bytes']:,}"
    ),
    "sent of them to each kube-proxy in a rollout": _sent,
    "kube-proxy's rules": lambda r: f"{r['endpoints']['kube-proxy']['rules']:,.0f}",
    "headless name over UDP; over TCP": _answer,
    "Prometheus' targets, all found": lambda r: (
        f"{r['monitoring']['targets']:,}, within {r['monitoring']['found after']:.0f} s of helm's end"
    ),
    "processors' seconds: install": lambda r: f"{processors(r, 'install'):.0f}",
    "processors' seconds: rollout": lambda r: f"{processors(r, 'rollout'):.0f}",
    "of these, API server": lambda r: f"{processors(r, 'rollout', 'API server'):.0f}",
    "controller manager": lambda r: f"{processors(r, 'rollout', 'controller manager'):.0f}",
    "scheduler": lambda r: f"{processors(r, 'rollout', 'scheduler'):.0f}",
    "etcd": lambda r: f"{processors(r, 'rollout', 'etcd'):.0f}",
    "Prometheus": lambda r: f"{processors(r, 'rollout', 'Prometheus'):.0f}",
    "memory, MiB: API server, controller manager, scheduler, etcd, Prometheus": lambda r: ", ".join(
        f"{memory(r, name):,.0f}"
        for name in ("API server", "controller manager", "scheduler", "etcd", "Prometheus")
    ),
}


def plot(records: list[dict[str, Any]]) -> str:
    """Seconds, and processors' seconds, against the number of nodes, as SVG text."""
    import matplotlib
    from matplotlib.figure import Figure

    from model_tools.slo.plots import GRID, INK, LIMIT, PODS, look, svg

    sizes = [record["nodes"] for record in records]
    with matplotlib.rc_context(look("scale", **{"legend.fontsize": 8, "lines.marker": "o"})):
        figure = Figure(figsize=SIZE, layout="constrained")
        times, costs = figure.subplots(1, 2)
        for colour, (phase, name) in zip(PODS, TIMES.items(), strict=False):
            key = "drained" if phase == "drain" else "all ready"
            times.plot(sizes, [record[phase][key] for record in records], color=colour, label=name)
        shortest = [record["rollout"]["shortest"] for record in records]
        times.plot(
            sizes, shortest, color=LIMIT, linestyle=(0, (4, 3)), marker="",
            label="rollout, if the control plane took no time",
        )  # fmt: skip
        times.set_ylabel("seconds")
        for colour, name in zip((*PODS[:5], INK), PROGRAMS, strict=True):
            costs.plot(
                sizes, [processors(record, "rollout", name) for record in records], color=colour, label=name
            )
        costs.set_ylabel("processors' seconds of a rollout")
        for axes in (times, costs):
            _style(axes, sizes, GRID)
        return svg(figure)


def _style(axes: Axes, sizes: list[int], grid: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("nodes, a pod on each")
    axes.grid(axis="y", color=grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def written(document: str, records: list[dict[str, Any]]) -> str:
    """The document with its table between `<!-- scale -->` and `<!-- end -->` made anew."""
    return between(document, "scale", table(records))


def write(folder: Path) -> None:
    """Takes the folder's measurements over into record, document and plot. Raises BadInput without any."""
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    if not files:
        raise BadInput(f"{folder} holds no measurements: python -m benchmarks.scale")
    records = [json.loads(file.read_text()) for file in files]
    RECORD.write_text(json.dumps(records, indent=1) + "\n")
    PLOT.write_text(plot(records) + "\n")
    DOCUMENT.write_text(written(DOCUMENT.read_text(), records))


def check() -> None:
    """Raises CheckFailed where the document's table is not the record's."""
    document = DOCUMENT.read_text()
    if written(document, json.loads(RECORD.read_text())) != document:
        raise CheckFailed(
            "docs/scale.md is not what benchmarks/scale/record.json says: python -m benchmarks.scale --write"
        )
