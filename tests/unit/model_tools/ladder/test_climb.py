"""What is kept, on a machine whose speed is simulated; and that nothing is measured twice."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from model_tools.ladder.climb import Criterion, Verdict, climb
from model_tools.ladder.report import markdown, plots, sentence, write
from model_tools.ladder.rungs import Rung, Step
from model_tools.tuning.journal import Journal
from model_tools.tuning.sample import Sample

ROUNDS = 6


def ladder(*names: str) -> list[Rung]:
    """Rungs that each add a part of their own."""
    return [
        Rung(
            name,
            f"The change of {name}.",
            {"optimisation": {}, **{other: number >= place for place, other in enumerate(names)}},
        )
        for number, name in enumerate(names)
    ]


class Machine:
    """Speeds of changes, on a machine that drifts by a factor of four. Latencies follow a closed loop."""

    def __init__(self, gains: Mapping[str, float], seed: int = 0, fails_after: int | None = None) -> None:
        self.gains, self.random = gains, random.Random(seed)
        self.level, self.fails_after = 0.0, fails_after
        self.measured: list[str] = []

    def __call__(self, step: Step) -> Sample:
        if self.fails_after is not None and len(self.measured) >= self.fails_after:
            raise KeyboardInterrupt
        self.measured.append(step.rung.name)
        self.level = max(-0.7, min(0.7, self.level + self.random.gauss(0, 0.08)))
        gain = math.prod(self.gains.get(name, 1) for name, on in step.values.items() if on is True)
        speed = 50 * gain * math.exp(self.level + self.random.gauss(0, 0.03))
        return sample(speed, 16 / speed)


def sample(throughput: float, latency: float, **more: Any) -> Sample:
    parts = {"queue": latency / 2, "input": 0.001, "infer": latency / 3, "output": 0.001}
    return Sample(
        throughput=throughput, p50=latency, p95=1.5 * latency, p99=2 * latency, mean=latency, batch=1.0,
        requests=100, seconds=2.0, warm_up=1.0, steady=True, **parts,
    )  # fmt: skip


def run(
    rungs: list[Rung],
    machine: Machine,
    folder: Path,
    criterion: Criterion | None = None,
    rounds: int = ROUNDS,
) -> list[Verdict]:
    with Journal(folder / "journal.jsonl", {}) as journal:
        return climb(rungs, machine, journal, rounds, 0, criterion or Criterion(), lambda *_: None)


def test_real_gains_are_kept_and_noise_is_not(tmp_path: Path) -> None:
    machine = Machine({"b": 2.0, "d": 1.6})
    found = run(ladder("a", "b", "c", "d"), machine, tmp_path)
    assert [verdict.kept for verdict in found] == [True, True, False, True]
    assert found[2].reason == "no more throughput beyond the noise"
    assert found[3].against == "b"
    assert found[3].to_baseline.low < 3.2 < found[3].to_baseline.high


def test_noise_is_hardly_ever_kept(tmp_path: Path) -> None:
    kept = 0
    for seed in range(60):
        folder = tmp_path / str(seed)
        kept += sum(
            verdict.kept for verdict in run(ladder("a", "b"), Machine({}, seed), folder, rounds=4)[1:]
        )
    assert kept <= 5  # 2.5 % are 1.5


def test_a_loss_is_rejected_as_one(tmp_path: Path) -> None:
    found = run(ladder("a", "b", "c"), Machine({"b": 0.4, "c": 2.0}), tmp_path)
    assert [verdict.reason for verdict in found] == ["", "less throughput", ""]


def test_what_comes_after_a_rejected_rung_is_measured_without_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        found = climb(
            ladder("a", "b", "c"),
            Machine({"b": 0.4, "c": 2.0}),
            journal,
            ROUNDS,
            0,
            Criterion(),
            lambda *_: None,
        )
    assert found[2].step.values == {"model": {}, "a": True, "b": False, "c": True}
    assert found[2].to_baseline.low < 2 < found[2].to_baseline.high


def test_a_rung_above_the_limit_of_p99_is_rejected(tmp_path: Path) -> None:
    class Slow(Machine):
        def __call__(self, step: Step) -> Sample:
            made = super().__call__(step)
            return sample(made.throughput, 1.0) if step.values["b"] else made

    found = run(ladder("a", "b"), Slow({"b": 3.0}), tmp_path, Criterion(max_p99=1.5))
    assert found[1].reason == "a p99 of 2000 ms, above 1500 ms"
    assert found[1].throughput.above_one


def test_each_round_has_every_rung_in_an_order_of_its_own(tmp_path: Path) -> None:
    machine = Machine({"b": 2.0, "c": 2.0, "d": 2.0})
    run(ladder("a", "b", "c", "d"), machine, tmp_path)
    orders = [tuple(machine.measured[start : start + 4]) for start in range(0, 4 * ROUNDS, 4)]
    assert len(machine.measured) == 4 * ROUNDS
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in orders)
    assert len(set(orders)) > 1


@pytest.mark.parametrize("after", range(0, 3 * ROUNDS, 4))
def test_an_interrupted_climb_goes_on_and_measures_whole_rounds_alone(after: int, tmp_path: Path) -> None:
    rungs, gains = ladder("a", "b", "c"), {"b": 2.0, "c": 2.0}
    with pytest.raises(KeyboardInterrupt):
        run(rungs, Machine(gains, fails_after=after), tmp_path)
    second = Machine(gains, seed=1)
    found = run(rungs, second, tmp_path)
    assert len(second.measured) == 3 * ROUNDS - after // 3 * 3
    assert all(len(verdict.samples) == ROUNDS for verdict in found)
    third = Machine(gains)
    assert [verdict.kept for verdict in run(rungs, third, tmp_path)] == [True, True, True]
    assert third.measured == []


def test_more_rounds_add_to_those_that_are_there(tmp_path: Path) -> None:
    rungs, gains = ladder("a", "b"), {"b": 2.0}
    run(rungs, Machine(gains), tmp_path, rounds=3)
    machine = Machine(gains)
    run(rungs, machine, tmp_path, rounds=5)
    assert len(machine.measured) == 4


def test_the_report_says_what_a_rung_bought_and_what_it_cost(tmp_path: Path) -> None:
    found = run(ladder("a", "b", "c"), Machine({"b": 2.0}), tmp_path)
    accuracy = {"a": 75.0, "b": 74.25}
    assert sentence(found[0], accuracy).startswith(
        "a (The change of a) is what the others are compared with:"
    )
    assert f"bought {found[1].throughput.mean:.2f} (" in sentence(found[1], accuracy)
    assert sentence(found[1], accuracy).endswith("and cost 0.75 points of top-1.")
    assert "is rejected, no more throughput beyond the noise" in sentence(found[2], accuracy)
    table = markdown(found, accuracy, {"rounds": ROUNDS})
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(found)
    assert len({row.count("|") for row in rows}) == 1
    write(tmp_path, found, accuracy, {"rounds": ROUNDS})
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "accuracy.svg", "journal.jsonl", "ladder.json", "ladder.md", "latency.svg", "throughput.svg",
    ]  # fmt: skip


def test_plots_name_every_rung(tmp_path: Path) -> None:
    found = run(ladder("alpha", "beta", "gamma"), Machine({"beta": 2.0}), tmp_path)
    drawn = plots(found, {})
    assert drawn.keys() == {"throughput", "latency"}
    for text in drawn.values():
        assert all(name in text for name in ("alpha", "beta", "gamma"))
