"""docs/benchmarks.md's tables of engines, behind Triton and on several GPUs, and their plot, from results/.

    python -m benchmarks.gpu.report            writes them
    python -m benchmarks.gpu.report --check    exit status 1 where a table is not current

Whoever measures anew puts run.sh's records there first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.documents import between
from benchmarks.gpu.fleet import by_gpus

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "gpu" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "images" / "gpu.svg"
SIZE = (9.6, 3.9)  # inches: a page's width
RUNGS = {
    "fp32": "FP32 (TF32 off)",
    "tf32": "TF32",
    "fp16": "FP16",
    "int8": "INT8, quantize nodes",
    "int8-implicit": "INT8 implicit",
}
FLEETS = {
    "cuda": "batches of 64, CUDA shared memory",
    "system": "batches of 64, system shared memory",
    "single": "single images over gRPC",
}

BATCHES = {"cuda": "CUDA shared memory", "system": "system shared memory"}

Rates = dict[tuple[str, int, int], float]


def engines() -> Rates:
    """Images a second with copies by rung, batch size and instances."""
    cases = json.loads((RESULTS / "h200-ladder.json").read_text())["cases"]
    return {
        (case["rung"], case["batch"], case["instances"]): case["images_per_s"]
        for case in cases
        if case["method"] == "ahead" and case["copies"]
    }


def fleets() -> dict[tuple[str, int], list[tuple[int, float, float]]]:
    """By case and the host's GPUs, medians: GPUs loaded, images a second, times one's in the same round."""
    found: dict[tuple[str, int], list[tuple[int, float, float]]] = {}
    for file in sorted(RESULTS.glob("h200-fleet-*.json")):
        record = json.loads(file.read_text())
        for (name, gpus), (rates, times) in by_gpus(record["cases"]).items():
            found.setdefault((name, record["gpus"]), []).append((gpus, median(rates), median(times)))
    return found


def engines_table() -> Iterator[str]:
    rates = engines()
    yield f"| batch | instances | {' | '.join(RUNGS.values())} | INT8 to FP16 | to implicit |"
    yield "|---|---|" + "---|" * (len(RUNGS) + 2)
    for batch, instances in sorted({key[1:] for key in rates}):
        row = [rates.get((rung, batch, instances)) for rung in RUNGS]
        cells = [f"{rate:,.0f}" if rate else "" for rate in row]
        for other in ("fp16", "int8-implicit"):
            rate = rates.get((other, batch, instances))
            cells.append(f"{rates['int8', batch, instances] / rate:.2f}" if rate else "")
        yield f"| {batch} | {instances} | {' | '.join(cells)} |"


def fleets_table() -> Iterator[str]:
    found = fleets()
    counts = sorted({gpus for points in found.values() for gpus, _, _ in points})
    yield "| load | host's GPUs | " + " | ".join(f"{gpus} loaded" for gpus in counts) + " | times one |"
    yield "|---|---|" + "---|" * (len(counts) + 1)
    for (name, host), points in sorted(
        found.items(), key=lambda item: (item[0][1], list(FLEETS).index(item[0][0]))
    ):
        rates = {gpus: f"{rate:,.0f}" for gpus, rate, _ in points}
        times = ", ".join(f"{ratio:.2f}" for gpus, _, ratio in points if gpus > 1)
        cells = " | ".join(rates.get(gpus, "") for gpus in counts)
        yield f"| {FLEETS[name]} | {host} | {cells} | {times} |"


def triton_table() -> Iterator[str]:
    """Behind Triton, by precision: the best load of a case, and its share of the best bare engine."""
    loads = " | ".join(f"batches of 64, {name} | to bare" for name in BATCHES.values())
    yield f"| engine | bare, 1 instance | bare, best of 1 and 2 | {loads} | single images over gRPC |"
    yield "|---|---|---|" + "---|" * (2 * len(BATCHES) + 1)
    for rung, name in RUNGS.items():
        file = RESULTS / f"h200-triton-{rung}.json"
        if not file.is_file():
            continue
        best: dict[str, float] = {}
        for case in json.loads(file.read_text())["cases"]:
            kind = "bare 1" if case["case"] == "bare" and case["instances"] == 1 else case["case"]
            best[kind] = max(best.get(kind, 0.0), case["images_per_s"])
        bare = max(best["bare"], best["bare 1"])
        cells = [f"{best['bare 1']:,.0f}", f"{bare:,.0f}"]
        for kind in BATCHES:
            cells += [f"{best[kind]:,.0f}", f"{best[kind] / bare * 100:.0f} %"]
        yield f"| {name} | {' | '.join(cells)} | {best['single']:,.0f} |"


TABLES = {"gpu engines": engines_table, "gpu hosts": fleets_table, "gpu triton": triton_table}


def written(document: str) -> str:
    """The document with its tables between `<!-- NAME -->` and `<!-- end -->` made anew."""
    for name, table in TABLES.items():
        document = between(document, name, "\n".join(table()))
    return document


def plot() -> str:
    """Images a second by batch size and rung, and against the GPUs of a host, as SVG text."""
    import matplotlib
    from matplotlib.figure import Figure

    from model_tools.slo.plots import GRID, INK, PODS, look, svg

    rates = engines()
    with matplotlib.rc_context(look("gpu", **{"legend.fontsize": 8, "lines.marker": "o"})):
        figure = Figure(figsize=SIZE, layout="constrained")
        ladder, hosts = figure.subplots(1, 2)
        batches = sorted({key[1] for key in rates})
        for colour, (rung, name) in zip(PODS, RUNGS.items(), strict=False):
            best = {
                batch: max(found)
                for batch in batches
                if (found := [rate for key, rate in rates.items() if key[:2] == (rung, batch)])
            }
            ladder.plot(list(best), list(best.values()), color=colour, label=name)
        ladder.set_xscale("log")
        ladder.set_yscale("log")
        ladder.set_xticks(batches, [str(batch) for batch in batches])
        ladder.minorticks_off()
        ladder.set_yticks(ticks := [1000, 3000, 10000, 30000, 100000], [f"{tick:,}" for tick in ticks])
        ladder.set_xlabel("batch size; best of 1, 2 and 4 instances")
        ladder.set_ylabel("images a second of one GPU, copies included")
        largest = max(host for _, host in fleets())
        points = {name: found for (name, host), found in fleets().items() if host == largest}
        gpus = [point[0] for point in points["cuda"]]
        hosts.plot(gpus, gpus, color=INK, linestyle=(0, (4, 3)), marker="", label="as many times as GPUs")
        for colour, (name, text) in zip(PODS, FLEETS.items(), strict=False):
            hosts.plot(gpus, [point[2] for point in points[name]], color=colour, label=text)
        hosts.set_xticks(gpus)
        hosts.set_ylim(0)
        hosts.set_xlabel("GPUs of one host, a Triton on each")
        hosts.set_ylabel("throughput, times that of one")
        ladder.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        hosts.legend(frameon=False, loc="lower right")
        for axes in (ladder, hosts):
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        return svg(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say what is not current")
    document = DOCUMENT.read_text()
    if parser.parse_args().check:
        if written(document) != document:
            print(
                "docs/benchmarks.md is not what benchmarks/gpu/results say: run benchmarks.gpu.report",
                file=sys.stderr,
            )
            return 1
        return 0
    DOCUMENT.write_text(written(document))
    PLOT.write_text(plot() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
