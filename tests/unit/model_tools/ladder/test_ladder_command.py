"""`model-tools ladder`. A complete record needs no server, so its report needs none either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_tools.ladder.command import JOURNAL
from model_tools.ladder.rungs import read, steps
from model_tools.tuning.journal import Journal
from model_tools.values import load_values
from tests.commands import Done

ROOT = Path(__file__).parents[4]
LOCAL = ROOT / "values" / "local.yaml"
Run = Callable[..., Done]


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    folder = tmp_path / "ladder"
    folder.mkdir()
    for number, precision in enumerate(("fp32", "bf16"), start=1):
        values = {"model": {"runtime": "openvino", "precision": precision}}
        (folder / f"{number}-{precision}.yaml").write_text(f"# In {precision}.\n{yaml.safe_dump(values)}")
    return folder


@pytest.fixture
def measured(ladder: Path, model: Path, tmp_path: Path) -> list[object]:
    """Arguments whose measurements are there: BF16 has 1.5 times the throughput, and half the p99."""
    output = tmp_path / "output"
    rungs = read(ladder)
    subject = {
        "rungs": {rung.name: rung.parts for rung in rungs},
        "values": load_values([LOCAL]),
        "seconds": 1.0,
        "users": 4,
        "place": "local",
    }
    with Journal(output / JOURNAL, subject) as journal:
        for number in range(3):
            for step, speed in zip(steps(rungs, ()), (10 + number / 10, 15 + number / 10), strict=True):
                journal.add({"round": number, "of": 2, "rung": step.rung.name, "step": step.digest,
                             "values": step.values, "sample": sample(speed)})  # fmt: skip
    return ["ladder", ladder, "--local", "--values", LOCAL, "--model", model, "--output", output,
            "--seconds", 1, "--users", 4, "--rounds", 3]  # fmt: skip


def sample(speed: float) -> dict[str, Any]:
    latencies = dict.fromkeys(("p50", "p95", "p99", "mean", "queue", "input", "infer", "output"), 4 / speed)
    return {**latencies, "throughput": speed, "batch": 1.0, "requests": 100, "seconds": 1.0, "warm_up": 1.0,
            "steady": True}  # fmt: skip


def test_the_table_and_the_files(measured: list[object], run: Run, tmp_path: Path) -> None:
    done = run(*measured)
    assert done.returncode == 0, done.stderr
    assert "| 2-bf16 | 15.1 | 1.50 (1.48 to 1.51) |" in done.stdout
    assert "2-bf16 (In bf16) bought 1.50 (1.48 to 1.51) times the throughput of 1-fp32" in done.stdout
    assert (tmp_path / "output" / "ladder.md").read_text() == done.stdout


def test_json_for_machines(measured: list[object], run: Run) -> None:
    found = json.loads(run(*measured, "--json").stdout)
    assert [rung["kept"] for rung in found["rungs"]] == [True, True]
    assert found["rungs"][1]["throughput_times_baseline"]["mean"] == pytest.approx(1.5, abs=0.01)


def test_a_ladder_that_reaches_too_little_is_status_1(measured: list[object], run: Run) -> None:
    assert run(*measured, "--at-least", 1.4).returncode == 0
    done = run(*measured, "--at-least", 1.6)
    assert done.returncode == 1
    assert done.stderr.endswith("2-bf16 has 1.50 times the baseline's throughput, less than 1.6\n")


def test_a_limit_that_a_rung_breaks_rejects_it(measured: list[object], run: Run) -> None:
    assert "rejected: a p99 of 265 ms, above 200 ms" in run(*measured, "--max-p99", 200).stdout


def test_a_ladder_that_is_none_is_refused(model: Path, refusal: Callable[..., str], tmp_path: Path) -> None:
    given = ("--local", "--model", model, "--output", tmp_path / "output")
    assert "a ladder has at least two rungs" in refusal("ladder", tmp_path / "missing", *given)
    assert not (tmp_path / "output").exists()


def test_a_model_that_does_not_fit_is_refused_before_anything_is_measured(
    ladder: Path, model: Path, refusal: Callable[..., str], tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("model: {input: {shape: [32, 32, 3]}}")
    line = refusal(
        "ladder", ladder, "--local", "--values", LOCAL, "--values", values, "--model", model, "--output",
        tmp_path / "output",
    )  # fmt: skip
    assert line == f"model.input.shape: is [32, 32, 3], and the model in {model} has [224, 224, 3]"
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--local"], "--local needs a model directory"),
        ([], "--chart: is missing"),
        (["--chart", "values"], "--chart: values: is no chart"),
        (["--local", "--model", "a=x", "--model", "a=y"], "--model a=y: a has the folder x already"),
        (["--local", "--model", "nowhere"], "nowhere: no such folder"),
    ],
    ids=["no model", "no chart", "no chart there", "twice", "no folder"],
)
def test_what_is_missing_is_named(
    options: list[str], message: str, ladder: Path, refusal: Callable[..., str], tmp_path: Path
) -> None:
    assert message in refusal("ladder", ladder, "--output", tmp_path / "output", *options)


def test_a_record_of_another_load_is_refused(measured: list[object], refusal: Callable[..., str]) -> None:
    assert "was measured with another users; --restart begins anew" in refusal(*measured, "--users", 5)
