"""`model-tools ladder --local` and `tune`: a real Triton a rung, loaded over gRPC."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from model_tools.config import ModelConfig
from model_tools.console import CheckFailed
from model_tools.serve import LocalTriton
from model_tools.tuning.load import Sender
from model_tools.values import Values, merge
from tests.commands import process

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def values(small_values: Values, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is laid over local.yaml for the small network."""
    file = tmp_path_factory.mktemp("values") / "small.yaml"
    wanted = {name: small_values[name] for name in ("name", "input", "output")}
    file.write_text(yaml.safe_dump({"model": wanted}))
    return file


@pytest.mark.nightly  # compares rates of two servers: a busy machine decides
def test_a_ladder_is_climbed_on_real_servers_and_measured_once(
    small: Path, values: Path, tmp_path: Path
) -> None:
    ladder = tmp_path / "ladder"
    ladder.mkdir()
    for number, size in enumerate((1, 8), start=1):
        batching = {"maxSize": size, "preferredSizes": [], "maxQueueDelayMicroseconds": 2000}
        (ladder / f"{number}-batch-{size}.yaml").write_text(yaml.safe_dump({"model": {"batching": batching}}))
    command = [
        "ladder", ladder, "--local", "--values", ROOT / "values" / "local.yaml", "--values", values,
        "--model", small, "--output", tmp_path / "output", "--rounds", 2, "--seconds", 1,
        "--users", 8, "--json",
    ]  # fmt: skip
    done = process("model_tools", *command)
    assert done.returncode == 0, done.stderr
    one, eight = (rung["samples"] for rung in json.loads(done.stdout)["rungs"])
    for sample in (*one, *eight):
        assert sample["requests"] > 0
        assert sample["seconds"] >= 1
        assert 0 < sample["p50"] <= sample["p95"] <= sample["p99"]
        assert 0 < sample["infer"] < sample["p99"]
        # Not above what all processors have, and one has done something.
        assert 0 < sample["processor"] * sample["requests"] < 1.3 * os.cpu_count() * sample["seconds"]
        # Little's law holds for any closed loop: 8 requests are always on their way.
        assert sample["throughput"] * sample["mean"] == pytest.approx(8, rel=0.35)
    assert [sample["batch"] for sample in one] == [1, 1]
    assert all(sample["batch"] > 1.2 for sample in eight)
    again = process("model_tools", *command)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["rungs"] == json.loads(done.stdout)["rungs"]
    assert " of 4: " not in again.stderr


def test_an_open_loop_counts_the_wait_for_a_server_that_is_late(
    small_repository: Path, small_values: Values
) -> None:
    """However long answers take, so that a slow server can't hide behind its clients."""
    config = ModelConfig.from_values(small_values)
    with (
        LocalTriton(small_repository, exit_seconds=0) as triton,
        Sender(triton.grpc, config.name) as sender,
    ):
        answers = sender.open(20, lambda found: found.sent >= 50)
        assert len(answers.arrived) == answers.sent >= 50
        assert answers.errors == []
        took = max(when for when, _ in answers.arrived) - answers.began
        assert answers.sent / took < 40  # 20 a second; all at once would be hundreds


def test_a_model_that_fails_is_no_measurement(small_repository: Path) -> None:
    with (
        LocalTriton(small_repository, exit_seconds=0) as triton,
        pytest.raises((CheckFailed, Exception), match="nothing"),
    ):
        Sender(triton.grpc, "nothing")


def test_tune_writes_values_that_the_model_is_served_with(
    small: Path, small_values: Values, values: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tuned"
    command = [
        "tune", "--model", small, "--values", ROOT / "values" / "local.yaml", "--values", values,
        "--output", output, "--batches", "1,8", "--delays", "0", "--instances", "1", "--threads", "1",
        "--measurements", 4, "--slices", 2, "--seconds", 0.5, "--users", 8,
    ]  # fmt: skip
    done = process("model_tools", *command, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["measurements"] == 4
    assert found["best"]["measurements"] >= 2
    tuned = yaml.safe_load((output / "tuned.yaml").read_text())
    assert tuned == found["values"]
    config = ModelConfig.from_values(merge(small_values, tuned["model"]))
    assert config.batching.max_size == found["best"]["size"]
    assert "<svg" in (output / "tune.svg").read_text()
    impossible = process("model_tools", *command, "--max-p99", 0.001, "--restart")
    assert impossible.returncode == 1
    assert "configurations keeps a p99 of 0.001 ms; closest is" in impossible.stderr
