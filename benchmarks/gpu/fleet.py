"""How images a second grow with the GPUs of a host: one Triton a GPU, one load generator for all of them.

    fleet.py --root TRITON --libraries FOLDER --plan FILE --output FILE [--gpus N] [--cases ...] [--rounds N]

Starts a Triton on each GPU, as triton.py does, then loads the first alone, the first two, the first four and
so on, in turns, --rounds times. The load grows with the GPUs: that many times the processes, each of which
spreads its requests over all Tritons, so that each has as many in flight as one alone. Each turn is kept
as it is measured; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu.engines import machine
from benchmarks.gpu.record import Record
from benchmarks.gpu.triton import load, options, serving
from model_tools.engine.cuda import Cuda

KEY = ("case", "gpus", "round")
# For each GPU: processes, and requests in flight of each.
LOADS = {"single": (8, 32), "system": (2, 4), "cuda": (2, 4)}


def by_gpus(cases: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[list[float], list[float]]]:
    """By case and GPUs loaded, of each round in which one GPU has a rate: images a second, times one's."""
    rates = {(case["case"], case["gpus"], case["round"]): case["images_per_s"] for case in cases}
    found: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    for (name, gpus, turn), rate in sorted(rates.items()):
        if one := rates.get((name, 1, turn)):
            several, times = found.setdefault((name, gpus), ([], []))
            several.append(rate)
            times.append(rate / one)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser)
    parser.set_defaults(sample_every=0)  # there is one place for the exporter of traces
    parser.add_argument("--gpus", type=int, help="default: all of the host")
    parser.add_argument("--instances", type=int, default=4, help="of each Triton")
    parser.add_argument("--cases", nargs="+", choices=LOADS, default=tuple(LOADS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    present = Cuda().count
    gpus = arguments.gpus or present
    if gpus > present:
        parser.error(f"--gpus: is {gpus}, and this host has {present}")
    counts = [number for number in (1, 2, 4, 8) if number <= gpus]
    about = {"command": " ".join(["benchmarks/gpu/fleet.py", *sys.argv[1:]]), **machine()}
    about |= {"gpus": present, "processors": os.cpu_count(), "instances": arguments.instances}
    record = Record(arguments.output, about, KEY)
    log = arguments.output.with_suffix(".log")
    with ExitStack() as stack:
        tritons = [
            stack.enter_context(serving(arguments, arguments.instances, log, gpu)) for gpu in range(gpus)
        ]
        urls = [triton.grpc for triton in tritons]
        for turn, name, count in product(range(arguments.rounds), arguments.cases, counts):
            processes, concurrency = LOADS[name]
            record.add(
                lambda name=name, count=count, processes=processes, concurrency=concurrency: load(
                    urls[:count], name, processes * count, concurrency, arguments.seconds
                ),
                case=name, gpus=count, round=turn,
            )  # fmt: skip
    for (name, count), (rates, times) in by_gpus([c for c in record.cases if "error" not in c]).items():
        print(
            f"{name:7} {count} GPU(s) {median(rates):9,.0f} images/s,"
            f" {median(times):.2f} times one ({min(times):.2f} to {max(times):.2f}), {len(times)} rounds"
        )


if __name__ == "__main__":
    main()
