"""What `model-tools tune` finds, against every combination: real measurements on a local Triton.

    python benchmarks/tune_against_grid.py

The search gets a fifth of the measurements that the grid takes. Both measure a configuration beside the same
reference, so that a machine that slows down favours neither. The best of a grid is partly luck, so in the end
the search's choice and the best of the grid are measured against each other in turns, and those ratios are
the result. Exit status 1 where one of them is below 0.97 beyond the noise.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from model_tools.console import BadInput, CheckFailed, run
from model_tools.files import cached
from model_tools.tune.command import serving
from model_tools.tune.search import Goal, Search, Trial
from model_tools.tune.space import Choice, Space
from model_tools.tuning.journal import Journal
from model_tools.tuning.local import LocalServer, Models
from model_tools.tuning.show import progress
from model_tools.tuning.statistics import Interval, ratio
from model_tools.values import Values, load_values, merge

LOCAL_VALUES = Path(__file__).parent.parent / "values" / "local.yaml"
SPACE = Space((1, 4, 16), (False, True), (0, 2000), (1, 2), (1, 2))
SIDE, CLASSES = 64, 10
ENOUGH = 0.97


@click.command()
@click.option(
    "--seconds", default=1.0, show_default=True, type=click.FloatRange(0.5), help="A measurement's."
)
@click.option("--slices", default=2, show_default=True, type=click.IntRange(2), help="A configuration's.")
@click.option("--users", default=16, show_default=True, type=click.IntRange(1), help="Requests in flight.")
@click.option("--best-of-grid", default=5, show_default=True, type=click.IntRange(1),
              help="So many of the grid are measured against the search's choice in the end.")  # fmt: skip
@click.option("--turns", default=12, show_default=True, type=click.IntRange(3), help="Of the winners.")
@click.option("--seed", default=0, show_default=True, help="Of the search.")
@click.option("--output", default=Path("build/tune-against-grid"), show_default=True,
              type=click.Path(path_type=Path), help="Folder of the record, to go on from later.")  # fmt: skip
def command(
    seconds: float, slices: int, users: int, best_of_grid: int, turns: int, seed: int, output: Path
) -> None:
    """Compare the search's result with that of an exhaustive grid."""
    folder = model()
    values = values_of(folder)
    choices = SPACE.choices()
    budget = len(choices) * slices // 5
    subject = {"seconds": seconds, "slices": slices, "users": users, "seed": seed, "space": vars(SPACE)}
    with (
        serving(folder, values, Goal(), users, seconds, True, SPACE) as serve,
        Journal(output / "search.jsonl", subject) as searched,
        Journal(output / "grid.jsonl", subject) as measured,
        progress() as report,
    ):
        began = time.monotonic()
        found = Search(SPACE, Goal(), serve, searched, slices).run(budget, seed, report)
        took = time.monotonic() - began
        if found.best is None:
            raise CheckFailed("the search found nothing")
        began = time.monotonic()
        grid = exhaustive(choices, serve, measured, slices, report)
        grid_took = time.monotonic() - began
    ranks = sorted(grid, key=lambda trial: -trial.times.mean)
    best = ranks[0]
    rivals = [trial.choice for trial in ranks if trial.choice != found.best.choice][:best_of_grid]
    compared = head_to_head(folder, values, rivals, found.best.choice, turns, seconds, users)
    record: dict[str, Any] = {
        "combinations": len(choices),
        "measurements": {"search": found.measurements, "grid": sum(len(trial.pairs) for trial in grid)},
        "seconds": {"search": round(took), "grid": round(grid_took)},
        "search": {**vars(found.best.choice), "times_reference": found.best.times.mean},
        "grid": {**vars(best.choice), "times_reference": best.times.mean},
        "rank_in_grid": 1 + [trial.choice for trial in ranks].index(found.best.choice),
        "worst_to_best_in_grid": ranks[-1].times.mean / best.times.mean,
        "search_to_best_of_grid": [{**vars(rival), **vars(times)} for rival, times in compared.items()],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    click.echo(json.dumps(record, indent=2))
    for rival, times in compared.items():
        if times.high < ENOUGH:
            raise CheckFailed(f"the search's choice has {times.mean:.3f} of the throughput of {rival}")


def exhaustive(choices: list[Choice], serve: Any, journal: Journal, slices: int, report: Any) -> list[Trial]:
    """Every configuration, `slices` times beside the reference, in a random order."""
    order = list(choices)
    random.Random(0).shuffle(order)
    trials = {choice: Trial(choice) for choice in order}
    remembered = Search(SPACE, Goal(), serve, journal, slices)  # knows how to read its entries
    trials.update(remembered.trials)
    for place, choice in enumerate(order):
        trial = trials[choice]
        if len(trial.pairs) >= slices:
            continue
        report(f"grid: {choice}", place, len(order))
        with serve(choice) as measure:
            while len(trial.pairs) < slices:
                reference, own = measure()
                journal.add(
                    {"choice": vars(choice), "reference": reference.as_dict(), "sample": own.as_dict()}
                )
                trial.pairs.append((reference, own))
    return list(trials.values())


def head_to_head(
    folder: Path, values: Values, rivals: list[Choice], own: Choice, turns: int, seconds: float, users: int
) -> dict[Choice, Interval]:
    """The throughput of `own` in times each rival's, all served all the time and loaded in turns."""
    from model_tools.config import ModelConfig

    models = Models({"": folder}, True)

    def server(choice: Choice) -> LocalServer:
        merged = merge(values, choice.values())
        return LocalServer(models.of(merged), ModelConfig.from_values(merged["model"]))

    order = random.Random(0)
    rates: dict[Choice, list[float]] = {choice: [] for choice in (own, *rivals)}
    with ExitStack() as stack:
        servers = {choice: stack.enter_context(server(choice)) for choice in rates}
        for _ in range(turns):
            for choice in order.sample(list(rates), len(rates)):
                rates[choice].append(servers[choice].sample(seconds, users=users).throughput)
    return {rival: ratio(list(zip(rates[rival], rates[own], strict=True))) for rival in rivals}


def model() -> Path:
    """MobileNetV2 with a third of its channels and 64 x 64 pixels, exported at the first call."""
    from model_tools import export

    def build(folder: Path) -> None:
        export._quiet_tensorflow()
        import keras

        keras.utils.set_random_seed(0)
        network = keras.applications.MobileNetV2((SIDE, SIDE, 3), alpha=0.35, weights=None, classes=CLASSES)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "mobilenet.keras"
            network.save(file)
            # Random weights: what the classes are says nothing, and only speed is measured.
            export.export(folder, model=str(file), preprocessing="tf", relative_tolerance=1.0)

    return cached("models", export.key(f"MobileNetV2 0.35 {SIDE}"), build)


def values_of(folder: Path) -> Values:
    """Those of a machine without a GPU, for this model: batches of up to 16 on one instance."""
    metadata = json.loads((folder / "model.json").read_text())
    if metadata["input"]["shape"] != [SIDE, SIDE, 3]:
        raise BadInput(f"{folder}: takes {metadata['input']['shape']}")
    shapes = {
        kind: {"shape": metadata[kind]["shape"], "name": metadata[kind]["name"]}
        for kind in ("input", "output")
    }
    changes: Values = {"model": {"name": metadata["name"], **shapes}}
    return merge(load_values([LOCAL_VALUES]), changes)


if __name__ == "__main__":
    run(command, "tune_against_grid.py")
