"""What `bench` and `inspect` do before there is a GPU: arithmetic, refusals, and statuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_tools.console import BadInput
from model_tools.engine.bench import check_target
from model_tools.engine.description import read, write
from model_tools.engine.inspect import lines
from model_tools.engine.key import Key
from model_tools.engine.timing import percentile, profile_for

DESCRIPTION = {
    "inputs": {"image": {"data_type": "UINT8", "shape": [-1, 224, 224, 3]}},
    "outputs": {"probabilities": {"data_type": "FLOAT", "shape": [-1, 1000]}},
    "profiles": [{"image": {"min": [1, 224, 224, 3], "opt": [16, 224, 224, 3], "max": [32, 224, 224, 3]}}],
    "precisions": {"FP16": 4, "INT8": 55},
    "layers": [
        {"name": "conv1", "kind": "Convolution", "inputs": ["INT8"], "outputs": ["FP16"], "tactic": "t"}
    ],
}


@pytest.fixture
def plan(tmp_path: Path, key: Key) -> Path:
    """A file that is described as a plan for a T4."""
    file = tmp_path / "model.plan"
    file.write_bytes(b"plan" * 1000)
    import hashlib

    sum_ = hashlib.sha256(file.read_bytes()).hexdigest()
    record = {"key": key.parts(), "sha256": sum_, "size": 4000, "seconds": 12.5, "description": DESCRIPTION}
    write(file, key, record)
    return file


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_the_smallest_value_that_so_many_are_not_above(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert all(
        sum(value <= other for value in values) < share * len(values) for other in values if other < found
    )


def test_a_batch_runs_with_the_profile_that_is_tuned_nearest_to_it() -> None:
    profiles = [(1, 4, 32), (1, 16, 32), (8, 64, 64)]
    assert [profile_for(profiles, batch) for batch in (1, 4, 10, 11, 32, 48)] == [0, 0, 0, 1, 1, 2]
    with pytest.raises(BadInput, match="--batch: is 65, and the plan takes 1 to 32 or 1 to 32 or 8 to 64"):
        profile_for(profiles, 65)


class TestTarget:
    """A plan is measured where it is for; its description says so before TensorRT does."""

    def test_here(self, plan: Path) -> None:
        check_target(plan, read(plan), "10.6.0", "Tesla T4", "7.5")
        check_target(plan, None, "10.6.0", "NVIDIA L4", "8.9")

    @pytest.mark.parametrize(
        ("version", "gpu", "capability", "named"),
        [
            ("10.7.0", "Tesla T4", "7.5", "is of TensorRT 10.6.0, and here is 10.7.0"),
            (
                "10.6.0",
                "NVIDIA L4",
                "8.9",
                r"is for Tesla T4 \(compute capability 7.5\), and here is NVIDIA L4",
            ),
        ],
    )
    def test_elsewhere(self, plan: Path, version: str, gpu: str, capability: str, named: str) -> None:
        with pytest.raises(BadInput, match=named):
            check_target(plan, read(plan), version, gpu, capability)


def test_a_description_of_another_engine_is_named(plan: Path) -> None:
    plan.write_bytes(b"another")
    with pytest.raises(BadInput, match="is of another engine"):
        read(plan)
    plan.with_name("model.plan.json").write_text("[]")
    with pytest.raises(BadInput, match="describes no engine"):
        read(plan)


def test_a_record_reads_well(plan: Path) -> None:
    found = read(plan)
    assert found is not None
    assert lines(found, with_layers=True) == [
        "model.plan: tensorrt 10.6.0, fp16, 0.0 MiB, built in 12.5 s",
        "for     Tesla T4, compute capability 7.5",
        f"model   sha256:{'a' * 64}",
        "input   image UINT8 [-1, 224, 224, 3]",
        "output  probabilities FLOAT [-1, 1000]",
        "profile 0: image batches 1 to 32, best at 16",
        "layers  4 read FP16, 55 read INT8",
        "  INT8 -> FP16     Convolution      conv1",
    ]


class TestCommands:
    def test_inspect_needs_no_gpu_for_an_engine_that_is_described(self, run: Any, plan: Path) -> None:
        done = run("engine", "inspect", plan, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["description"]["precisions"] == {"FP16": 4, "INT8": 55}

    @pytest.mark.parametrize(
        ("content", "verb", "named"),
        [
            (None, "inspect", "model.plan: no such file"),
            (None, "bench", "model.plan: no such file"),
            (b"", "inspect", "model.plan: is empty"),
            (b"plan", "inspect", "--runtime: tensorrt is not installed here"),
            (b"plan", "bench", "--runtime: tensorrt is not installed here"),
        ],
    )
    def test_bad_input_is_one_line_and_status_2(
        self, run: Any, tmp_path: Path, content: bytes | None, verb: str, named: str
    ) -> None:
        if content is not None:
            (tmp_path / "model.plan").write_bytes(content)
        done = run("engine", verb, tmp_path / "model.plan")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert named in done.stderr

    def test_a_blob_without_a_description_says_what_writes_one(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "model.blob").write_bytes(b"blob")
        done = run("engine", "inspect", tmp_path / "model.blob")
        assert done.returncode == 2
        assert "has no model.blob.json beside it, which `engine build` writes" in done.stderr
