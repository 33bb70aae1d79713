"""`model-tools ladder`: a baseline, one change at a time, and the numbers to choose by."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_tools.console import BadInput, CheckFailed
from model_tools.ladder.rungs import Rung, Step, read
from model_tools.values import load_values, merge

if TYPE_CHECKING:
    from model_tools.ladder.climb import Measure, Verdict
    from model_tools.tuning.sample import Sample

JOURNAL = "measurements.jsonl"


@click.command("ladder", short_help="What each rung of a ladder of values buys and costs, measured.")
@click.argument("ladder", metavar="LADDER", type=click.Path(path_type=Path))
@click.option("--values", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="Values under the rungs', as for helm; may be given again, the last wins.")  # fmt: skip
@click.option("--output", required=True, metavar="DIR", type=click.Path(path_type=Path),
              help="Folder of the measurements, which a later run goes on from, and the report.")  # fmt: skip
@click.option("--local", is_flag=True, help="A Triton on this machine a rung, and no cluster.")
@click.option("--model", "given", multiple=True, metavar="[TAG=]DIR",
              help="Model directory: of rungs whose model.source.image.tag is TAG, or of all. --local serves "
              "it; its evaluation.json gives the rung's accuracy.")  # fmt: skip
@click.option("--release", default="inference-system", show_default=True, help="Release to upgrade.")
@click.option("--namespace", default="inference", show_default=True, help="The release's namespace.")
@click.option("--chart", metavar="DIR", type=click.Path(path_type=Path),
              help="The chart to upgrade with; needed without --local.")  # fmt: skip
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(2),
              help="Measurements of each rung.")  # fmt: skip
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Length of a measurement, after its warm-up.")  # fmt: skip
@click.option("--users", type=click.IntRange(1),
              help="Requests always in flight.  [default: loadtest.users of the values]")  # fmt: skip
@click.option("--max-p99", metavar="MS", type=click.FloatRange(0, min_open=True),
              help="Reject a rung with a longer p99.")  # fmt: skip
@click.option("--at-least", metavar="TIMES", type=float,
              help="Exit with 1 unless the last rung kept has this many times the baseline's throughput, at "
              "a p99 that is no longer.")  # fmt: skip
@click.option("--allow-unevaluated", is_flag=True,
              help="Take a quantized model whose accuracy is not known, or known to be too low.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the order in each round.")
@click.option("--restart", is_flag=True, help="Drop the measurements that are in --output.")
@click.option("--json", "as_json", is_flag=True, help="Print ladder.json in place of the table.")
def command(
    ladder: Path, files: tuple[Path, ...], output: Path, local: bool, given: tuple[str, ...], release: str,
    namespace: str, chart: Path | None, rounds: int, seconds: float, users: int | None, max_p99: float | None,
    at_least: float | None, allow_unevaluated: bool, seed: int, restart: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure the values files in LADDER, each of which is one change against the one before.

    In each round every rung is measured once, in random order, so that a machine whose speed drifts favours
    none. A rung is kept if its throughput is above that of the last one kept beyond the noise (95 %); the
    change of a rejected one is taken out of those after it. Interrupted, it goes on where it was.

    Without --local, the release is upgraded to each rung and loaded by its own load test, and Prometheus says
    where the time went; it is left at the last rung kept.
    """
    from model_tools.ladder.climb import Criterion, climb
    from model_tools.ladder.report import markdown, write
    from model_tools.tuning.cluster import ClusterRelease
    from model_tools.tuning.journal import Journal
    from model_tools.tuning.show import progress

    rungs = read(ladder)
    base = load_values(files)
    models = _models(given)
    subject: dict[str, Any] = {
        "rungs": {rung.name: rung.parts for rung in rungs},
        "values": base,
        "seconds": seconds,
        "users": users,
        "place": "local" if local else f"{namespace}/{release}",
    }
    criterion = Criterion(max_p99 / 1000 if max_p99 else None)
    if local:
        with (
            _local(base, models, seconds, users, allow_unevaluated, rungs) as measure,
            Journal(output / JOURNAL, subject, restart) as journal,
            progress() as report,
        ):
            verdicts = climb(rungs, measure, journal, rounds, seed, criterion, report)
    else:
        if chart is None or not (chart / "Chart.yaml").is_file():
            found = f"{chart}: is no chart" if chart else "is missing"
            raise BadInput(f"--chart: {found}; `python -m charts.package DIR` writes it")
        target = ClusterRelease(release, namespace, chart, files)

        def upgraded(step: Step) -> Sample:
            target.install(step.values)
            return target.sample(seconds, users)

        with Journal(output / JOURNAL, subject, restart) as journal, progress() as report:
            verdicts = climb(rungs, upgraded, journal, rounds, seed, criterion, report)
            report(f"leaving {release} at the last rung kept", 1, 1)
            target.install([verdict.step for verdict in verdicts if verdict.kept][-1].values)
    facts = _facts(subject, base, rounds, ladder)
    accuracy = _accuracy(verdicts, models)
    written = write(output, verdicts, accuracy, facts)
    shown = (output / "ladder.json").read_text() if as_json else markdown(verdicts, accuracy, facts)
    click.echo(shown, nl=False)
    click.echo(f"{', '.join(str(path) for path in written)}", err=True)
    if at_least is not None:
        _demand(verdicts, at_least)


def _models(given: Sequence[str]) -> dict[str, Path]:
    """Model directories by tag, "" for the one of all others. Raises BadInput for a tag given twice."""
    found: dict[str, Path] = {}
    for word in given:
        tag, separator, folder = word.partition("=")
        if not separator or "/" in tag:
            tag, folder = "", word
        if tag in found:
            what = tag or "the model of all rungs"
            raise BadInput(f"--model {word}: {what} has the folder {found[tag]} already")
        found[tag] = Path(folder)
    return found


@contextmanager
def _local(
    base: dict[str, Any],
    models: Mapping[str, Path],
    seconds: float,
    users: int | None,
    allow_unevaluated: bool,
    rungs: Sequence[Rung],
) -> Iterator[Measure]:
    """Measures with a Triton for each step. They stay: one that has nothing to do takes next to nothing."""
    from model_tools.config import ModelConfig
    from model_tools.ladder.rungs import steps
    from model_tools.tuning.local import LocalServer, Models

    if not models:
        raise BadInput("--local needs a model directory: --model DIR, or --model TAG=DIR for each tag")
    known = Models(models, allow_unevaluated)

    def server(step: Step) -> LocalServer:
        values = merge(base, step.values)
        return LocalServer(known.of(values), ModelConfig.from_values(values["model"]))

    for step in steps(rungs, ()):
        server(step).check()  # before an hour has gone into the rungs before it
    in_flight = users or int(base["loadtest"]["users"])
    serving: dict[str, LocalServer] = {}
    with ExitStack() as stack:

        def measure(step: Step) -> Sample:
            if step.digest not in serving:
                serving[step.digest] = stack.enter_context(server(step))
            return serving[step.digest].sample(seconds, users=in_flight)

        yield measure


def _accuracy(verdicts: Sequence[Verdict], models: Mapping[str, Path]) -> dict[str, float]:
    """Top-1 by rung, of evaluations of the rung's model as the rung computes it."""
    found: dict[str, float] = {}
    for verdict in verdicts:
        model = verdict.step.values["model"]
        tag = str(model.get("source", {}).get("image", {}).get("tag", ""))
        folder = models.get(tag) or models.get("")
        precision = model.get("precision", "fp32")
        for other in (folder, *models.values()):
            top1 = _top1(other, precision, own=other == folder)
            if top1 is not None:
                found[verdict.step.rung.name] = top1
                break
    return found


def _top1(folder: Path | None, precision: str, own: bool) -> float | None:
    """Of the folder's evaluation, for a rung of that precision; own: whether the rung serves that folder.

    FP32's accuracy is in the evaluation of any model that was made from it.
    """
    from model_tools.evaluate.verdict import VERDICT

    try:
        evaluation = json.loads(((folder or Path()) / VERDICT).read_text(encoding="utf-8"))
        if precision in ("fp32", "savedmodel"):
            return float(evaluation["reference_top1"])
        computed = evaluation["compute"] if evaluation["precision"] == "fp32" else evaluation["precision"]
        return float(evaluation["top1"]) if own and computed == precision else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _facts(subject: Mapping[str, Any], base: Mapping[str, Any], rounds: int, ladder: Path) -> dict[str, Any]:
    import os
    import platform

    return {
        "ladder": str(ladder),
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "place": subject["place"],
        "rounds": rounds,
        "seconds": subject["seconds"],
        "users": subject["users"] or base["loadtest"]["users"],
        "processors": len(os.sched_getaffinity(0)),
        "processor": _processor() or platform.machine(),
    }


def _processor() -> str:
    """Its name and the instructions that decide how fast low precision is, where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    wanted = ("avx2", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
    return f"{fields.get('model name', '')} ({' '.join(flag for flag in wanted if flag in flags)})"


def _demand(verdicts: Sequence[Verdict], at_least: float) -> None:
    from model_tools.tuning.statistics import ratio

    best = [verdict for verdict in verdicts if verdict.kept][-1]
    times = best.to_baseline.mean
    if times < at_least:
        raise CheckFailed(
            f"{best.step.rung.name} has {times:.2f} times the baseline's throughput, less than {at_least:g}"
        )
    baseline = verdicts[0]
    tail = ratio([(baseline.median("p99"), best.median("p99"))]).mean
    if tail > 1:
        raise CheckFailed(f"{best.step.rung.name} has {tail:.2f} times the baseline's p99")
