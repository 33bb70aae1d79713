"""`model-tools repository`: a Triton model repository from model directories and the chart's values."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from model_tools.bundle import SAMPLE, Bundle
from model_tools.config import NAME, ModelConfig
from model_tools.console import BadInput
from model_tools.evaluate import verdict
from model_tools.files import written_aside
from model_tools.values import CHART_VALUES, load_values, models


@click.command("repository", short_help="A Triton model repository from models and the chart's values.")
@click.option("--model", "given", required=True, multiple=True, metavar="[NAME=]DIR",
              help="Model directory, as `model-tools export` writes it: of the values' `model`, or of the "
              "one that is called NAME. Given once for each model of the values.")  # fmt: skip
@click.option("--values", "files", multiple=True, metavar="FILE",  type=click.Path(path_type=Path),
              help="Values over the chart's, as for helm; may be given again, the last wins.")  # fmt: skip
@click.option("--chart-values", default=CHART_VALUES, metavar="FILE", type=click.Path(path_type=Path),
              help="The chart's default values.  [default: those of this version]")  # fmt: skip
@click.option("--output", required=True, metavar="REPO", type=click.Path(path_type=Path),
              help="Folder to write; one that is there is replaced.")  # fmt: skip
@click.option("--allow-unevaluated", is_flag=True,
              help="Take a quantized model whose accuracy is not known, or known to be too low.")  # fmt: skip
def command(
    given: tuple[str, ...], files: tuple[Path, ...], chart_values: Path, output: Path, allow_unevaluated: bool
) -> None:
    """Write a Triton model repository: config.pbtxt from the chart's values, and the model, for each model.

    Refuses values that can't work, and values that do not fit a model, with the key at fault. Refuses a
    quantized model that `model-tools evaluate` did not pass.
    """
    values = models(load_values(files, defaults=chart_values))
    configs = [ModelConfig.from_values(model, path) for path, model in values.items()]
    folders = _folders(given, configs)
    found = [(Bundle.load(folders[config.name]), config) for config in configs]
    if not allow_unevaluated:
        for bundle, _ in found:
            verdict.demand(bundle)
    write_repository(found, output)
    for config in configs:
        click.echo(f"{output}: {config.name} version {config.version}, {config.runtime} {config.precision}")


def write_repository(served: Sequence[tuple[Bundle, ModelConfig]], output: Path) -> None:
    """Writes `output`/NAME/{config.pbtxt,VERSION/MODEL}, and warmup/sample where the warm-up needs it.

    Raises BadInput if a model and its configuration do not fit.
    """
    for bundle, config in served:
        check(bundle, config)
    if output.is_dir() and any(output.iterdir()) and not any(output.glob("*/config.pbtxt")):
        raise BadInput(f"{output}: is not empty and no model repository; it would be replaced")
    with written_aside(output) as aside:
        for bundle, config in served:
            _write(bundle, config, aside / config.name)


def _folders(given: Sequence[str], configs: Sequence[ModelConfig]) -> dict[str, Path]:
    """The model directory of each configuration by its name. Raises BadInput unless each has one."""
    primary, known = configs[0].name, ", ".join(config.name for config in configs)
    folders: dict[str, Path] = {}
    for word in given:
        name, separator, folder = word.partition("=")
        if not separator or not NAME.fullmatch(name):  # ./a=b is a folder
            name, folder = primary, word
        if name not in {config.name for config in configs}:
            raise BadInput(f"--model {word}: the values have no model {name}, only {known}")
        if name in folders:
            raise BadInput(f"--model {word}: {name} has the folder {folders[name]} already")
        folders[name] = Path(folder)
    for config in configs:
        if config.name not in folders:
            raise BadInput(f"{config.path}: give its model directory, --model {config.name}=DIR")
    return folders


def check(bundle: Bundle, config: ModelConfig) -> None:
    """Raises BadInput if the two do not fit."""
    if not (bundle.folder / config.filename).exists():
        raise BadInput(
            f"{config.path}.runtime: {config.runtime} serves a {config.filename},"
            f" and {bundle.folder} holds a {bundle.model.name}"
        )
    for key, wanted, there in (
        ("input", config.input, bundle.input),
        ("output", config.output, bundle.output),
    ):
        for part, value, actual in (
            ("name", wanted.name, there.name),
            ("dataType", wanted.data_type, there.data_type),
            ("shape", list(wanted.shape), list(there.shape)),
        ):
            if value != actual:
                raise BadInput(
                    f"{config.path}.{key}.{part}: is {value}, and the model in {bundle.folder} has {actual}"
                )
    if config.warmup == "sample" and not (bundle.folder / SAMPLE).is_file():
        raise BadInput(
            f"{config.path}.warmup.data: is sample, and {bundle.folder} holds no {SAMPLE};"
            " export it again, or set random"
        )


def _write(bundle: Bundle, config: ModelConfig, folder: Path) -> None:
    version = folder / str(config.version)
    version.mkdir(parents=True)
    there = bundle.folder / config.filename
    if there.is_dir():
        shutil.copytree(there, version / config.filename)
    else:
        shutil.copyfile(there, version / config.filename)
    if config.warmup == "sample":
        (folder / SAMPLE).parent.mkdir()
        shutil.copyfile(bundle.folder / SAMPLE, folder / SAMPLE)
    (folder / "config.pbtxt").write_text(config.to_text(), encoding="utf-8")
