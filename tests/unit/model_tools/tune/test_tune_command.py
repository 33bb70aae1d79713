"""`model-tools tune`: what can be said without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from model_tools.tune.command import Numbers, space_of, values_text
from model_tools.tune.search import Goal, Trial
from model_tools.tune.space import Choice
from model_tools.tuning.sample import Sample
from model_tools.values import load_values

ROOT = Path(__file__).parents[4]
LOCAL = ROOT / "values" / "local.yaml"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere"], "nowhere: no such folder"),
        (["--batches", "4,x"], "Invalid value for '--batches': '4,x' is no list of whole numbers from 1 on"),
        (["--instances", "0"], "Invalid value for '--instances': '0' is no list of whole numbers from 1 on"),
        (["--max-p99", "0"], "Invalid value for '--max-p99': 0.0 is not in the range x>0"),
        (["--measurements", "4"], "4 measurements are too few: 6 are two configurations"),
    ],
    ids=["model", "batches", "instances", "p99", "measurements"],
)
def test_bad_input_is_one_line_and_status_2(
    options: list[str], message: str, model: Path, refusal: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    line = refusal("tune", "--model", model, "--values", LOCAL, "--output", output, *options)
    assert message in line
    assert not output.exists()


def test_threads_of_instances_on_a_gpu_are_refused(
    model: Path, refusal: Callable[..., str], tmp_path: Path
) -> None:
    line = refusal("tune", "--model", model, "--output", tmp_path / "output", "--threads", "2")
    assert line == "--threads: instances on a GPU have none"


def test_a_gpu_is_tuned_without_threads() -> None:
    space = space_of(load_values([]), (1, 16), (0,))
    assert {choice.threads for choice in space.choices()} == {0}
    assert {choice.instances for choice in space.choices()} == {1, 2, 3, 4}


def test_numbers_are_sorted_and_counted_once() -> None:
    assert Numbers(1).convert("16, 4,4", None, None) == (4, 16)


def test_the_values_file_says_what_it_gave_and_is_what_helm_takes() -> None:
    parts = dict.fromkeys(("p50", "p95", "p99", "mean", "queue", "input", "infer", "output"), 0.02)
    pair = tuple(
        Sample(throughput=rate, batch=4.0, requests=9, seconds=1.0, warm_up=1.0, steady=True, **parts)
        for rate in (50.0, 100.0)
    )
    best = Trial(Choice(16, True, 1000, 2, 1), [(pair[0], pair[1])])
    text = values_text(best, Goal(max_p99=0.1))
    assert "keeps a p99 of 100 ms: 100.0 requests a second, 2.00 times those of the values before" in text
    assert yaml.safe_load(text)["model"] == {
        "instances": {"count": 2, "threads": 1},
        "batching": {"maxSize": 16, "preferredSizes": [16], "maxQueueDelayMicroseconds": 1000},
    }
