"""On an NVIDIA GPU with TensorRT: engines compute what the model computes, and their cache keeps its word.

benchmarks/gpu/run.sh runs these; MODEL names a folder that `model-tools export` wrote.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MODEL = os.environ.get("MODEL", "")


def missing() -> str:
    try:
        ctypes.CDLL("libcuda.so.1")
        from model_tools.engine.builders import builder

        builder("tensorrt").version()
    except Exception as error:  # whatever is missing, the reason is what counts
        return str(error)
    return "" if MODEL else "MODEL names no model"


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(reason := missing()), reason=f"needs a GPU with TensorRT: {reason}"),
]


def installed() -> list[str]:
    """Major, minor and patch of the release, as its library has it: that is not where model_tools asks."""
    for major in (11, 10, 8):
        try:
            number = ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion()
        except OSError:
            continue
        thousand = 1000 if major == 8 else 10000
        return [str(each) for each in (number // thousand, number % thousand // 100, number % 100)]
    raise AssertionError("there is no libnvinfer")


def build(cache: Path, output: Path, precision: str, batch: int) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-c", "from model_tools.cli import main; main()", "engine", "build", "--json",
        "--runtime", "tensorrt", "--model", MODEL, "--precision", precision, "--max-batch", str(batch),
        "--cache", str(cache), "--output", str(output),
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def built(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    said, lines = process.communicate(timeout=600)
    assert process.returncode == 0, lines
    return json.loads(said), lines


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that two processes have asked for the same engine at once."""
    folder = tmp_path_factory.mktemp("cache")
    racing = [build(folder, folder.with_name(f"pod-{number}"), "fp32", 4) for number in range(2)]
    assert sorted(built(process)[0]["found"] for process in racing) == [False, True], "built once, used twice"
    return folder


def entry(cache: Path) -> Path:
    (folder,) = (each for each in cache.iterdir() if each.is_dir() and not each.name.startswith("."))
    return folder


def infer(plan: Path, pixels: np.ndarray) -> np.ndarray:
    """Probabilities [N, classes] for pictures [N, height, width, 3]."""
    from model_tools.evaluate.runtimes import engine

    (rows,) = engine(plan)(pixels).values()
    return rows


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2), ("bf16", 5e-2)])
def test_an_engine_computes_what_the_model_computes(
    tmp_path: Path, cache: Path, precision: str, tolerance: float
) -> None:
    """In the relative difference of a row: of most, and within five times that of all. Random weights and
    noise for pictures leave some rows near a tie; 11 and 8 bits of mantissa over 50 layers."""
    import onnxruntime

    process = build(cache if precision == "fp32" else tmp_path / "cache", tmp_path, precision, 4)
    if precision == "bf16" and installed()[0] == "8":
        _, lines = process.communicate(timeout=600)
        assert process.returncode == 2
        assert lines.splitlines()[-1] == "model-tools: --precision: TensorRT 8 has no bf16"
        assert not (tmp_path / "model.plan").exists()
        return
    built(process)
    pixels = np.random.default_rng(3).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(f"{MODEL}/model.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    for size in (1, 4):
        rows = infer(tmp_path / "model.plan", pixels[:size])
        assert rows.shape == expected[:size].shape
        apart = np.linalg.norm(rows - expected[:size], axis=1) / np.linalg.norm(expected[:size], axis=1)
        assert np.median(apart) < tolerance
        assert apart.max() < 5 * tolerance


def test_a_plan_that_is_in_the_cache_is_not_built_again(cache: Path, tmp_path: Path) -> None:
    said, _ = built(build(cache, tmp_path, "fp32", 4))
    assert said["found"]
    assert (tmp_path / "model.plan").read_bytes() == (entry(cache) / "engine").read_bytes()


def test_the_key_names_this_gpu_and_this_release_of_tensorrt(cache: Path, tmp_path: Path) -> None:
    said, _ = built(build(cache, tmp_path, "fp32", 4))
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()[0].split(", ")  # fmt: skip
    device = said["parts"]["device"]
    assert [device["gpu"], device["compute_capability"]] == listed
    assert said["parts"]["version"].split(".")[:3] == installed()


@pytest.mark.parametrize("damage", ["truncated", "of another GPU"])
def test_a_plan_that_can_not_be_used_is_discarded_and_built_again(
    cache: Path, tmp_path: Path, damage: str
) -> None:
    folder = entry(cache)
    if damage == "truncated":
        with (folder / "engine").open("r+b") as plan:
            plan.truncate(1 << 20)
    else:
        record = json.loads((folder / "engine.json").read_text())
        record["key"]["device"] = {"gpu": "Tesla T4", "compute_capability": "7.5"}
        (folder / "engine.json").write_text(json.dumps(record))
    said, lines = built(build(cache, tmp_path, "fp32", 4))
    assert not said["found"]
    assert said["stored"]
    assert "is discarded" in lines
    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    assert infer(tmp_path / "model.plan", pixels).sum() == pytest.approx(1, abs=1e-3)


def test_a_file_that_is_no_model_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"not a model")
    ended = subprocess.run(
        [sys.executable, "-c", "from model_tools.cli import main; main()", "engine", "build",
         "--runtime", "tensorrt", "--model", str(tmp_path / "model"), "--precision", "fp32",
         "--max-batch", "4",
         "--output", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "is no ONNX model" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "model.plan").exists()


def model_tools(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from model_tools.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_an_engine_is_described_beside_it_out_of_the_cache_too(cache: Path, tmp_path: Path) -> None:
    built(build(cache, tmp_path, "fp32", 4))
    done = model_tools("engine", "inspect", tmp_path / "model.plan", "--json")
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)["description"]
    assert set(described["precisions"]) == {"FP32"}
    (shapes,) = (each["image"] for each in described["profiles"])
    assert [shapes[size][0] for size in ("min", "opt", "max")] == [1, 4, 4]
    (tmp_path / "model.plan.json").unlink()
    assert json.loads(model_tools("engine", "inspect", tmp_path / "model.plan", "--json").stdout)[
        "description"
    ] == {name: value for name, value in described.items() if name != "typed"}


def test_the_bench_measures_as_trtexec_does(cache: Path, tmp_path: Path) -> None:
    """Within 10 % in half a second; the benchmarks look closer."""
    built(build(cache, tmp_path, "fp32", 4))
    rates = []
    for method in ("ahead", "trtexec"):
        done = model_tools(
            "engine", "bench", tmp_path / "model.plan", "--batch", 4, "--instances", 1, "--copies", "with",
            "--seconds", 0.5, "--method", method, "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        case = json.loads(done.stdout)
        assert case["p50_ms"] <= case["p95_ms"] <= case["p99_ms"]
        rates.append(case["images_per_s"])
    assert rates[0] == pytest.approx(rates[1], rel=0.1)


def test_a_batch_that_the_plan_does_not_take_is_one_line_and_status_2(cache: Path, tmp_path: Path) -> None:
    built(build(cache, tmp_path, "fp32", 4))
    done = model_tools("engine", "bench", tmp_path / "model.plan", "--batch", 5)
    assert (done.returncode, done.stderr) == (2, "model-tools: --batch: is 5, and the plan takes 1 to 4\n")


def test_an_engine_is_evaluated_as_triton_would_run_it(tmp_path: Path) -> None:
    """The FP32 engine and ONNX Runtime agree on what pictures show; 40 of the digits."""
    found = {}
    for runtime in ("tensorrt", "onnxruntime"):
        copied = shutil.copytree(MODEL, tmp_path / runtime)
        done = model_tools("evaluate", copied, "--runtime", runtime, "--pictures", 40, "--json")
        assert done.returncode == 0, done.stderr
        found[runtime] = json.loads(done.stdout)
    assert found["tensorrt"]["runtime_version"].split(".")[:3] == installed()
    assert found["tensorrt"]["top1"] == pytest.approx(found["onnxruntime"]["top1"], abs=2.5)
