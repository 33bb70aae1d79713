"""`model-tools engine`: builds the engine of a model for this machine, or takes it from a cache."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_tools.console import BadInput, CheckFailed
from model_tools.engine.bench import bench
from model_tools.engine.inspect import inspect
from model_tools.engine.prune import command as prune_command
from model_tools.engine.prune import prune

if TYPE_CHECKING:
    from model_tools.config import ModelConfig


@click.group("engine", short_help="The engine of a model for this machine, from a cache that pods share.")
def command() -> None:
    """Engines: models compiled for one kind of device by one version of one runtime."""


command.add_command(inspect)
command.add_command(bench)
command.add_command(prune_command)


@command.command("build", short_help="Take the engine from the cache, or build it.")
@click.option("--model", "folder", required=True, metavar="DIR", type=click.Path(path_type=Path),
              help="Folder with model.onnx, or with versions that have one.")  # fmt: skip
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path),
              help="Folder that gets the engine, model.plan (tensorrt) or model.blob (openvino).  "
              "[default: beside model.onnx]")  # fmt: skip
@click.option("--cache", metavar="DIR|URL",
              help="Of engines that pods share; gs://, s3:// too.  [default: none]")  # fmt: skip
@click.option("--values", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="Chart values that say what is not said by an option; may be given again.")  # fmt: skip
@click.option("--runtime", metavar="NAME", help="tensorrt or openvino.  [values: model.runtime]")
@click.option("--precision", metavar="NAME", help="fp32, fp16, bf16 or int8.  [values: model.precision]")
@click.option("--max-batch", type=int, metavar="N", help="[values: model.batching.maxSize]")
@click.option("--preferred-batch", "preferred", type=int, multiple=True, metavar="N",
              help="Batch size to be fastest at; given again, an optimization profile for each.  [values: "
              "those of batching.preferredSizes that instances.profiles names, or the largest]")  # fmt: skip
@click.option("--level", type=int, metavar="N",
              help="How long TensorRT looks for faster kernels, 0 to 5.  [default: its own, 3]")  # fmt: skip
@click.option("--workspace", type=int, default=0, metavar="MIB",
              help="GPU memory that a layer may use beside its tensors.  [default: all]")  # fmt: skip
@click.option("--wait", default=1800.0, show_default=True, metavar="SECONDS",
              help="How long to wait for another pod that builds the same engine.")  # fmt: skip
@click.option("--keep-days", type=click.IntRange(0), default=0, metavar="N",
              help="Then remove engines from the cache that no pod has taken for N days; 0 keeps all.  "
              "[default: 0]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def build(
    folder: Path,
    output: Path | None,
    cache: str | None,
    files: tuple[Path, ...],
    runtime: str | None,
    precision: str | None,
    max_batch: int | None,
    preferred: tuple[int, ...],
    level: int | None,
    workspace: int,
    wait: float,
    keep_days: int,
    as_json: bool,
) -> None:
    """Put the engine of a model into a folder, and beside it a JSON file that says what it is.

    A cache that is missing, full or not writable, and an engine in it that is damaged or of another key,
    cost a build and a line that says so, nothing else.
    """
    from model_tools.bundle import MODEL
    from model_tools.engine.builders import builder, key
    from model_tools.engine.cache import obtain
    from model_tools.engine.description import write
    from model_tools.engine.key import Limits
    from model_tools.progress import steps

    if files or not (runtime and precision and max_batch):
        model = _model_values(files)
        runtime = runtime or model.runtime
        precision = precision or model.precision
        if max_batch is None:
            max_batch = model.batching.max_size
            preferred = preferred or preferred_sizes(model)
    limits = Limits(precision, max_batch, preferred or (max_batch,), level, workspace << 20)
    maker = builder(runtime)
    shared = cache if cache and "://" in cache else Path(cache) if cache else None
    local = shared if isinstance(shared, Path) else None  # where what helps the next build is kept, too
    for source in [folder] if output else _versions(folder):
        target = (output or source) / maker.filename
        wanted = key(maker, runtime, source, limits)
        version = wanted.version.split("-")[0]
        label = f"{target} ({runtime} {version}, {precision}, key {wanted.name[:12]})"

        def make(file: Path, source: Path = source, label: str = label) -> dict[str, Any]:
            _say(f"{label}: building; this takes seconds on a CPU and minutes on a GPU")
            with steps() as step:
                step(f"building {label}")
                return maker.build(source / MODEL, limits, file, local)

        try:
            result = obtain(shared, wanted, make, target, wait, _say)
            write(target, wanted, result.record)
        except OSError as error:
            raise BadInput(f"{target}: can't be written ({error.strerror})") from error
        if as_json:
            said: dict[str, Any] = {"engine": str(target), "key": wanted.name, "parts": wanted.parts()}
            said |= {"found": result.found, "seconds": round(result.seconds, 3), "stored": result.stored}
            click.echo(json.dumps(said))
        elif result.found:
            click.echo(f"{label}: found in the cache")
        else:
            kept = " and stored in the cache" if result.stored else ""
            click.echo(f"{label}: built in {result.seconds:.1f} s{kept}")
    if local and keep_days:
        with suppress(OSError):  # a cache that can't be read: `obtain` has said so
            for removed in prune(local, keep_days):
                _say(str(removed))


@command.command("list", short_help="What a cache holds.")
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
def list_(cache: Path, as_json: bool) -> None:
    """List the engines in CACHE, each checked against its record; status 1 where one is damaged."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from model_tools.engine.cache import entries

    try:
        found = list(entries(cache))
    except OSError as error:
        raise BadInput(f"{cache}: {(error.strerror or 'can not be read').lower()}") from error
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in found], indent=2))
    for entry in [] if as_json else found:
        parts = entry.parts
        what = [str(parts.get(part, "?")) for part in ("runtime", "version", "precision")]
        used = f"last used {datetime.fromtimestamp(entry.used, UTC):%Y-%m-%d}"
        size = f"{entry.size / 2**20:.1f} MiB, built in {entry.seconds:.1f} s, {used}"
        click.echo("  ".join([entry.name[:12], *what, size, *([entry.problem] if entry.problem else [])]))
    if damaged := [entry.name[:12] for entry in found if entry.problem]:
        raise CheckFailed(f"{cache}: the next pod that needs it rebuilds {', '.join(damaged)}")


def _versions(folder: Path) -> list[Path]:
    """The folders of a model's versions, or the folder itself where it holds the model."""
    numbered = [each for each in folder.glob("[1-9]*") if each.name.isdecimal() and each.is_dir()]
    from model_tools.bundle import MODEL

    if numbered and not (folder / MODEL).exists():
        return sorted(numbered, key=lambda each: int(each.name))
    return [folder]


def _model_values(files: tuple[Path, ...]) -> ModelConfig:
    from model_tools.config import ModelConfig
    from model_tools.values import CHART_VALUES, load_values

    if not files and not CHART_VALUES.is_file():
        raise BadInput("--runtime, --precision and --max-batch: give them, or --values")
    values = load_values(files, CHART_VALUES if CHART_VALUES.is_file() else None)
    return ModelConfig.from_values(values.get("model", {}))


def preferred_sizes(model: ModelConfig) -> tuple[int, ...]:
    """The batch sizes that an engine is tuned for: one, unless instances name profiles.

    `model.instances.profiles` are indices into `model.batching.preferredSizes`. Raises BadInput for one that
    is none.
    """
    sizes = model.batching.preferred_sizes
    if not model.instances.profiles:
        return (max(sizes, default=model.batching.max_size),)
    last = max(model.instances.profiles)
    if last >= len(sizes):
        raise BadInput(
            f"{model.path}.instances.profiles: names profile {last}, and there is one for each of"
            f" batching.preferredSizes, {list(sizes)}"
        )
    return sizes[: last + 1]


def _say(line: str) -> None:
    click.echo(line, err=True)
