"""Engine curves: those that come along, and those of users."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_tools.console import BadInput
from model_tools.plan import curves
from model_tools.plan.curves import Curve, load, load_file

ROOT = Path(__file__).parents[4]
RESULTS = ROOT / "benchmarks" / "gpu" / "results"
BENCH = [
    {"batch": batch, "instances": instances, "copies": copies, "method": "ahead", "images_per_s": 1,
     "p50_ms": batch * instances * (2.0 if copies else 1.0), "p95_ms": 3.0 * batch * instances,
     "p99_ms": 100.0}
    for batch in (1, 8) for instances in (1, 2) for copies in (False, True)
]  # fmt: skip


def write(folder: Path, content: Any) -> Path:
    file = folder / "curve.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def curve(*points: tuple[int, int, float]) -> dict[str, Any]:
    return {
        "curves": {"any": [{"batch": batch, "instances": count, "p50_ms": ms} for batch, count, ms in points]}
    }


def test_measured_curves_are_what_the_records_say() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "curves.py"), "--check"]
    subprocess.run(command, check=True)
    case = next(
        case
        for case in json.loads((RESULTS / "h200-ladder.json").read_text())["cases"]
        if (case["rung"], case["batch"], case["instances"], case["copies"]) == ("int8", 16, 4, True)
    )
    assert load("h200", "int8").seconds(16, 4) == pytest.approx(case["p50_ms"] / 1000)


@pytest.mark.parametrize("curve", curves.all_shipped(), ids=lambda curve: curve.name)
def test_a_shipped_curve_says_what_it_is(curve: Curve) -> None:
    assert curve.sources
    assert curve.notes
    if curve.kind == "published":
        assert all(point.basis for point in curve.points)
    else:
        assert all("benchmarks/gpu/results/" in source for source in curve.sources)
        assert all("TensorRT 10.6.0" in source and "driver" in source for source in curve.sources)


def test_the_published_throughputs_of_a_t4_are_its_curves() -> None:
    for precision, instances, rate in (
        ("int8", 1, 3061), ("int8", 4, 4053), ("fp16", 1, 1607), ("savedmodel", 1, 424)
    ):  # fmt: skip
        found = load("t4", precision)
        assert found.service(instances, 16).capacity(16) == pytest.approx(rate, rel=0.001)
        assert found.kind == "published"


def test_the_curve_behind_triton_gives_the_throughput_that_was_measured_there() -> None:
    """Single requests: within the range of the loads that it is made from."""
    cases = [
        case for case in json.loads((RESULTS / "h200-triton.json").read_text())["cases"]
        if case["case"] == "single" and "error" not in case
    ]  # fmt: skip
    found = load("h200-served", "fp16")
    for instances in (2, 4):
        measured = [case["images_per_s"] for case in cases if case["instances"] == instances]
        predicted = found.service(instances, 64).capacity(64)
        assert 0.9 * min(measured) < predicted < 1.1 * max(measured)


def test_times_between_points_lie_on_lines(tmp_path: Path) -> None:
    found = load_file(write(tmp_path, curve((4, 1, 2), (8, 1, 4), (4, 3, 6), (8, 3, 12))), "fp16")
    assert found.seconds(6, 1) == pytest.approx(0.003)
    assert found.seconds(4, 2) == pytest.approx(0.004)
    assert found.seconds(6, 2) == pytest.approx(0.006)


def test_smaller_batches_take_as_long_as_the_smallest_and_fewer_instances_as_the_fewest(
    tmp_path: Path,
) -> None:
    found = load_file(write(tmp_path, curve((4, 2, 2), (8, 2, 4))), "fp16")
    assert found.seconds(1, 2) == found.seconds(4, 2) == found.seconds(4, 1) == 0.002


@pytest.mark.parametrize(
    ("batch", "instances", "message"),
    [(9, 1, "a batch of 9, and"), (4, 3, "3 instances, and times are known")],
)
def test_nothing_is_made_up_beyond_the_points(
    tmp_path: Path, batch: int, instances: int, message: str
) -> None:
    found = load_file(write(tmp_path, curve((8, 1, 2), (8, 2, 4))), "fp16")
    with pytest.raises(BadInput, match=message):
        found.seconds(batch, instances)


def test_what_engine_bench_prints_is_a_curve(tmp_path: Path) -> None:
    """Of the launches with copies, where it has them."""
    found = load_file(write(tmp_path, "\n".join(json.dumps(line) for line in BENCH)), "int8")
    assert found.seconds(8, 2) == pytest.approx(0.032)
    assert found.spread[0] == (0.5, 1.0)
    bare = [line for line in BENCH if not line["copies"]]
    found = load_file(write(tmp_path, "\n".join(json.dumps(line) for line in bare)), "int8")
    assert found.seconds(8, 2) == pytest.approx(0.016)
    assert load_file(write(tmp_path, json.dumps(bare[0])), "int8").instances == [1]


def test_quantiles_spread_the_times_around_the_typical_one(tmp_path: Path) -> None:
    point = {"batch": 1, "instances": 1, "p10_ms": 8, "p50_ms": 10, "p90_ms": 15, "p99_ms": 14.9}
    service = load_file(write(tmp_path, {"curves": {"fp16": [point]}}), "fp16").service(1, 1)
    # A p99 of few samples below the p90 is taken for as much as that.
    assert service.spread == ((0.1, 0.8), (0.5, 1.0), (0.9, 1.5), (0.99, 1.5))
    assert service.mean_factor == pytest.approx(0.1 * 0.8 + 0.4 * 0.9 + 0.4 * 1.25 + 0.1 * 1.5)


POINT = {"batch": 1, "instances": 1, "p50_ms": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "curves.any: has no points"),
        ("3", "is int, and has to be a curve file"),
        ({}, "has no curves by precision"),
        ({"curves": {"fp16": [POINT]}, "kind": "guessed"}, "'guessed' is not measured or published"),
        ({"curves": {"fp16": [POINT]}, "overhead_ms": "1"}, "overhead_ms: '1' is no time"),
        ({"curves": {"fp16": [POINT]}, "notes": "one"}, "notes: is 'one', and has to be a list"),
        ({"curves": {"fp16": [3]}}, r"curves.fp16\[0\]: is 3, and has to be a point"),
        ({"curves": {"fp16": [{**POINT, "batch": 0}]}}, r"curves.fp16\[0\].batch: 0 is no whole number"),
        ({"curves": {"fp16": [{"batch": 1, "instances": 1}]}}, r"curves.fp16\[0\]: has no p50_ms"),
        ({"curves": {"fp16": [{**POINT, "p99_ms": "fast"}]}}, r"curves.fp16\[0\].p99_ms: 'fast' is no time"),
        ({"curves": {"fp16": [POINT, POINT]}}, "batch 1 on 1 instances is there already"),
        ({"curves": {"fp16": [POINT]}}, "has no curve of model.precision int8, only of fp16"),
    ],
)
def test_a_file_that_is_no_curve_is_refused_with_the_place(
    tmp_path: Path, content: Any, message: str
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(BadInput, match=message) as refusal:
        load_file(file, "int8")
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"missing.json: no such file or directory"):
        load_file(tmp_path / "missing.json", "fp16")


def test_a_gpu_without_a_curve_is_told_which_there_are() -> None:
    with pytest.raises(BadInput, match="--gpu b200: there are curves of h200, h200-served, t4"):
        load("b200", "fp16")
