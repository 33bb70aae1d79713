"""The measured curves of model_tools/plan/gpus, out of the records in results/.

    python benchmarks/gpu/curves.py            writes them
    python benchmarks/gpu/curves.py --check    exit status 1 where one is not current

h200.json is the engine alone: passes with copies, one in flight an instance, as `engine bench` measures them.
h200-served.json is FP16 behind Triton with this project's Python backend, for single requests. Its records
have one size of batch for each number of instances, so it is the engine's curve and a time for each request
of a batch, which is what those records' batches took beyond the engine.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = Path(__file__).parent / "results"
CURVES = Path(__file__).parents[2] / "model_tools" / "plan" / "gpus"
ENGINES = "h200-ladder.json"
SERVED = "h200-triton.json"
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}  # of the records' rungs


def engines() -> dict[str, Any]:
    """The engine alone, of every precision that was measured."""
    record = json.loads((RESULTS / ENGINES).read_text())
    points: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for case in record["cases"]:
        if case["rung"] in PRECISIONS and case["copies"] and case["method"] == "ahead":
            point = {key: case[key] for key in ("batch", "instances", "p50_ms", "p95_ms", "p99_ms")}
            found = points.setdefault(PRECISIONS[case["rung"]], {})
            found[case["batch"], case["instances"]] = point
    return {
        "gpu": record["gpu"],
        "kind": "measured",
        "sources": [f"benchmarks/gpu/results/{ENGINES}, {versions(record)}"],
        "notes": [
            "the engine with copies, without Triton: what a server gives at the most",
            "each batch size with an engine tuned for it, FP32's for 64; ResNet-50, 224x224, uint8 input",
        ],
        "curves": {
            precision: [found[place] for place in sorted(found)]
            for precision, found in sorted(points.items())
        },
    }


def served() -> dict[str, Any]:
    """FP16 behind Triton, single requests."""
    record = json.loads((RESULTS / SERVED).read_text())
    engine = engines()["curves"]["fp16"]
    cases = [case for case in record["cases"] if case["case"] == "single" and "error" not in case]
    each = fmean(
        (sum(case[f"compute_{part}_ms"] for part in ("input", "infer", "output")) - engine_ms(engine, case))
        / case["images_per_batch"]
        for case in cases
    )
    counts = sorted({case["instances"] for case in cases})
    points = [
        {
            "batch": point["batch"],
            "instances": point["instances"],
            "p50_ms": round(point["p50_ms"] + each * point["batch"], 3),
            "basis": f"the engine's p50 and {each:.3f} ms a request",
        }
        for point in engine
        if point["instances"] in counts and point["batch"] <= 64
    ]
    return {
        "gpu": record["gpu"],
        "kind": "measured",
        "sources": [f"benchmarks/gpu/results/{SERVED}, {versions(record)}", *engines()["sources"]],
        "notes": [
            "behind Triton 2.51 with this project's Python backend, single requests over gRPC",
            "a point is the engine's and a time a request: the mean of what batches took beyond the engine in"
            f" {len(cases)} loads, {min(case['images_per_batch'] for case in cases):.0f} to"
            f" {max(case['images_per_batch'] for case in cases):.0f} requests a batch",
        ],
        "curves": {"fp16": points},
    }


def engine_ms(points: list[dict[str, Any]], case: dict[str, Any]) -> float:
    """The engine's time of a case's mean batch, on a line between its points."""
    known = sorted((p["batch"], p["p50_ms"]) for p in points if p["instances"] == case["instances"])
    size = case["images_per_batch"]
    for (low, first), (high, last) in pairwise(known):
        if low <= size <= high:
            return float(first + (last - first) * (size - low) / (high - low))
    raise ValueError(f"no points around a batch of {size}")


def versions(record: dict[str, Any]) -> str:
    return f"TensorRT {record['tensorrt']}, driver {record['driver']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say what is not current")
    check = parser.parse_args().check
    stale = []
    for name, content in (("h200", engines()), ("h200-served", served())):
        file, text = CURVES / f"{name}.json", as_text(content)
        if check:
            stale += [file.name] if not file.is_file() or file.read_text() != text else []
        else:
            file.write_text(text)
    if stale:
        print(f"not current: {', '.join(stale)}; run benchmarks/gpu/curves.py", file=sys.stderr)
    return 1 if stale else 0


def as_text(content: dict[str, Any]) -> str:
    """JSON with a point a line."""
    curves = content["curves"]
    rest = json.dumps({key: value for key, value in content.items() if key != "curves"}, indent=1)
    lines = [
        f'  "{precision}": [\n' + ",\n".join(f"   {json.dumps(point)}" for point in points) + "\n  ]"
        for precision, points in curves.items()
    ]
    return rest.removesuffix("\n}") + ',\n "curves": {\n' + ",\n".join(lines) + "\n }\n}\n"


if __name__ == "__main__":
    sys.exit(main())
