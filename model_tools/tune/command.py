"""`model-tools tune`: batching, instances and threads for a service level objective."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_tools.console import BadInput, CheckFailed
from model_tools.values import Values, load_values, merge

if TYPE_CHECKING:
    from model_tools.tune.search import Found, Goal, Serve, Slice, Trial
    from model_tools.tune.space import Choice, Space
    from model_tools.tuning.sample import Sample

JOURNAL, VALUES, REPORT = "measurements.jsonl", "tuned.yaml", "tune.json"


class Numbers(click.ParamType):
    """Whole numbers separated by commas, none below `least`."""

    name = "N,N,..."

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.strip().isdecimal() and int(word) >= self.least for word in words):
            self.fail(f"{value!r} is no list of whole numbers from {self.least} on", param, ctx)
        return tuple(sorted({int(word) for word in words}))


@click.command("tune", short_help="Batching, instances and threads that meet an objective best.")
@click.option("--model", "folder", required=True, metavar="DIR", type=click.Path(path_type=Path),
              help="Model directory to serve.")  # fmt: skip
@click.option("--values", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="Values over the chart's, as for helm; what they say is what is improved on.")  # fmt: skip
@click.option("--output", required=True, metavar="DIR", type=click.Path(path_type=Path),
              help=f"Folder of {VALUES}, a report, and the measurements, to go on from later.")  # fmt: skip
@click.option("--max-p99", metavar="MS", type=click.FloatRange(0, min_open=True),
              help="The p99 at the client that the configuration has to keep.")  # fmt: skip
@click.option("--rate", metavar="N", type=click.FloatRange(0, min_open=True),
              help="Find the cheapest configuration that answers N requests a second, which come at random "
              "times, in place of the largest throughput.")  # fmt: skip
@click.option("--users", type=click.IntRange(1),
              help="Requests always in flight, without --rate.  [default: loadtest.users]")  # fmt: skip
@click.option("--batches", type=Numbers(1), default="1,2,4,8,16", show_default=True, help="Largest batches.")
@click.option("--delays", type=Numbers(0), default="0,1000,5000", show_default=True,
              help="Microseconds that a batch may be waited for.")  # fmt: skip
@click.option("--instances", type=Numbers(1), help="[default: 1 to 4 on a GPU, 1 to 2 a processor on a CPU]")
@click.option("--threads", type=Numbers(0), help="Of an instance on a CPU.  [default: 1 to all, by doubling]")
@click.option("--measurements", type=click.IntRange(4),
              help="How many to make.  [default: a fifth of what all combinations would take]")  # fmt: skip
@click.option("--slices", default=3, show_default=True, type=click.IntRange(2),
              help="Measurements of a configuration that stays promising.")  # fmt: skip
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Length of a measurement, after its warm-up.")  # fmt: skip
@click.option("--allow-unevaluated", is_flag=True,
              help="Take a quantized model whose accuracy is not known, or known to be too low.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the search.")
@click.option("--restart", is_flag=True, help="Drop the measurements that are in --output.")
@click.option("--json", "as_json", is_flag=True, help=f"Print {REPORT}.")
def command(
    folder: Path, files: tuple[Path, ...], output: Path, max_p99: float | None, rate: float | None,
    users: int | None, batches: tuple[int, ...], delays: tuple[int, ...], instances: tuple[int, ...] | None,
    threads: tuple[int, ...] | None, measurements: int | None, slices: int, seconds: float,
    allow_unevaluated: bool, seed: int, restart: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find the configuration that gives the most, by measuring a local Triton with few of all combinations.

    Writes values for `helm upgrade --values`. The largest throughput with a p99 below --max-p99, or with
    --rate the fewest threads and instances that answer so many requests a second. Exit status 1 where no
    configuration meets the objective.
    """
    from model_tools.tune.search import Goal, Search, demand_enough
    from model_tools.tuning.journal import Journal
    from model_tools.tuning.show import progress

    base = load_values(files)
    goal = Goal(max_p99 / 1000 if max_p99 else None, rate)
    space = space_of(base, batches, delays, instances, threads)
    budget = measurements or max(2 * slices, len(space.choices()) * slices // 5)
    demand_enough(budget, slices)
    in_flight = users or int(base["loadtest"]["users"])
    subject = {
        "model": str(folder.resolve()),
        "values": base,
        "objective": vars(goal),
        "seconds": seconds,
        "slices": slices,
        **({"users": in_flight} if rate is None else {}),
    }
    with (
        serving(folder, base, goal, in_flight, seconds, allow_unevaluated, space) as serve,
        Journal(output / JOURNAL, subject, restart) as journal,
        progress() as report,
    ):
        found = Search(space, goal, serve, journal, slices).run(budget, seed, report)
    record = _record(found, goal, space, slices)
    _write(output / REPORT, json.dumps(record, indent=2) + "\n")
    _write(output / "tune.svg", _plot(found, goal))
    if found.best is None:
        raise CheckFailed(
            f"none of {len(found.trials)} configurations {_objective(goal)}; {_closest(found, goal)}"
        )
    _write(output / VALUES, values_text(found.best, goal))
    click.echo((output / REPORT).read_text() if as_json else _said(found, output), nl=False)


def space_of(
    values: Values,
    batches: tuple[int, ...],
    delays: tuple[int, ...],
    instances: tuple[int, ...] | None = None,
    threads: tuple[int, ...] | None = None,
) -> Space:
    """What may be tuned of a release with these values. Raises BadInput for threads on a GPU."""
    from model_tools.tune.space import Space

    processors = len(os.sched_getaffinity(0))
    if values["model"]["instances"]["kind"] == "gpu":
        if threads and set(threads) != {0}:
            raise BadInput("--threads: instances on a GPU have none")
        return Space(batches, (False, True), delays, instances or (1, 2, 3, 4), (0,))
    doubled = tuple(2**power for power in range(processors.bit_length()) if 2**power <= processors)
    counts = tuple(range(1, min(8, 2 * processors) + 1))
    return Space(batches, (False, True), delays, instances or counts, threads or doubled)


@contextmanager
def serving(
    folder: Path,
    base: Values,
    goal: Goal,
    users: int,
    seconds: float,
    allow_unevaluated: bool,
    space: Space,
) -> Iterator[Serve]:
    """Serves configurations beside the one that `base` says, which stays."""
    import random

    from model_tools.config import ModelConfig
    from model_tools.tuning.local import LocalServer, Models

    models = Models({"": folder}, allow_unevaluated)

    def server(values: Values) -> LocalServer:
        return LocalServer(models.of(values), ModelConfig.from_values(values["model"]))

    for choice in space.choices():
        server(merge(base, choice.values())).check()
    order = random.Random(0)

    def sample(of: LocalServer) -> Sample:
        if goal.rate is not None:
            return of.sample(seconds, rate=goal.rate)
        return of.sample(seconds, users=users)

    with ExitStack() as stack:
        reference = stack.enter_context(server(base))

        @contextmanager
        def serve(choice: Choice) -> Iterator[Slice]:
            with server(merge(base, choice.values())) as own:

                def slice_() -> tuple[Sample, Sample]:
                    if order.random() < 0.5:
                        before = sample(reference)
                        return before, sample(own)
                    after = sample(own)
                    return sample(reference), after

                yield slice_

        yield serve


def values_text(best: Trial, goal: Goal) -> str:
    """A values file of the configuration, with what it gave."""
    import yaml

    return (
        f"# By model-tools tune: {best.choice}.\n"
        f"# It {_objective(goal)}: {_given(best)}.\n"
        + yaml.safe_dump(best.choice.values(), sort_keys=False, default_flow_style=None)
    )


def _objective(goal: Goal) -> str:
    parts = [] if goal.rate is None else [f"answers {goal.rate:g} requests a second"]
    parts += [] if goal.max_p99 is None else [f"keeps a p99 of {goal.max_p99 * 1000:g} ms"]
    return " and ".join(parts) or "has the largest throughput of what was measured"


def _given(trial: Trial) -> str:
    found = trial.times
    interval = f" ({found.low:.2f} to {found.high:.2f})" if found.count > 1 else ""
    return (
        f"{trial.throughput:.1f} requests a second, {found.mean:.2f}{interval} times those of the values"
        f" before, p99 {trial.p99 * 1000:.0f} ms"
    )


def _closest(found: Found, goal: Goal) -> str:
    measured = [trial for trial in found.trials if trial.pairs and not trial.failure]
    if not measured:
        failures = [trial.failure for trial in found.trials if trial.failure]
        return failures[0] if failures else "nothing was measured"
    trial = min(measured, key=lambda trial: trial.excess(goal))
    return f"closest is {trial.choice}: {_given(trial)}"


def _said(found: Found, output: Path) -> str:
    assert found.best is not None
    return (
        f"{found.best.choice}: {_given(found.best)}\n"
        f"{found.measurements} measurements of {len(found.trials)} configurations;"
        f" helm upgrade --values {output / VALUES}\n"
    )


def _record(found: Found, goal: Goal, space: Space, slices: int) -> dict[str, Any]:
    def trial_record(trial: Trial) -> dict[str, Any]:
        record: dict[str, Any] = {**vars(trial.choice), "failure": trial.failure, "pruned": trial.pruned}
        if trial.pairs:
            times = trial.times
            record |= {
                "throughput": trial.throughput,
                "p99": trial.p99,
                "times_reference": [times.mean, *([times.low, times.high] if times.count > 1 else [])],
                "measurements": len(trial.pairs),
                "meets": trial.meets(goal),
            }
        return record

    return {
        "objective": vars(goal),
        "combinations": len(space.choices()),
        "measurements": found.measurements,
        "measurements_of_all": len(space.choices()) * slices,
        "best": trial_record(found.best) if found.best else None,
        "values": found.best.choice.values() if found.best else None,
        "trials": [trial_record(trial) for trial in found.trials],
    }


def _plot(found: Found, goal: Goal) -> str:
    """Throughput, in times the reference's, against p99; the winner marked."""
    import matplotlib
    from matplotlib.figure import Figure

    from model_tools.slo.plots import GRID, LIMIT, look, svg

    with matplotlib.rc_context(look("tune")):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel("p99 at the client, ms")
        axes.set_ylabel("throughput, times that of the values before")
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        for trial in found.trials:
            if trial.pairs:
                colour = "#94a3b8" if trial.pruned or not trial.meets(goal) else "#2563eb"
                size = 70 if trial is found.best else 18
                axes.scatter([trial.p99 * 1000], [trial.times.mean], s=size, color=colour)
        if found.best:
            place = (found.best.p99 * 1000, found.best.times.mean)
            axes.annotate(
                str(found.best.choice), place, xytext=(8, 6), textcoords="offset points", fontsize=8
            )
        if goal.max_p99 is not None:
            axes.axvline(goal.max_p99 * 1000, color=LIMIT, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_ylim(bottom=0)
        return svg(figure)


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
