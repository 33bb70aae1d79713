"""`model-tools repository`: a Triton model repository from a model directory and the chart's values."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from model_tools.bundle import SAMPLE, Bundle
from model_tools.config import ModelConfig
from model_tools.console import BadInput
from model_tools.evaluate import verdict
from model_tools.files import written_aside
from model_tools.values import CHART_VALUES, load_values


@click.command("repository", short_help="A Triton model repository from a model and the chart's values.")
@click.option("--model", "folder", required=True, metavar="DIR", type=click.Path(path_type=Path),
              help="Model directory, as `model-tools export` writes it.")  # fmt: skip
@click.option("--values", "files", multiple=True, metavar="FILE",  type=click.Path(path_type=Path),
              help="Values over the chart's, as for helm; may be given again, the last wins.")  # fmt: skip
@click.option("--chart-values", default=CHART_VALUES, metavar="FILE", type=click.Path(path_type=Path),
              help="The chart's default values.  [default: those of this version]")  # fmt: skip
@click.option("--output", required=True, metavar="REPO", type=click.Path(path_type=Path),
              help="Folder to write; one that is there is replaced.")  # fmt: skip
@click.option("--allow-unevaluated", is_flag=True,
              help="Take a quantized model whose accuracy is not known, or known to be too low.")  # fmt: skip
def command(
    folder: Path, files: tuple[Path, ...], chart_values: Path, output: Path, allow_unevaluated: bool
) -> None:
    """Write a Triton model repository: config.pbtxt from the chart's values, and the model.

    Refuses values that can't work, and values that do not fit the model, with the key at fault. Refuses a
    quantized model that `model-tools evaluate` did not pass.
    """
    values = load_values(files, defaults=chart_values)
    config = ModelConfig.from_values(values.get("model", {}))
    bundle = Bundle.load(folder)
    if not allow_unevaluated:
        verdict.demand(bundle)
    write_repository(bundle, config, output)
    click.echo(f"{output}: {config.name} version {config.version}, {config.runtime} {config.precision}")


def write_repository(bundle: Bundle, config: ModelConfig, output: Path) -> None:
    """Writes `output`/NAME/{config.pbtxt,VERSION/model.onnx}, and warmup/sample where the warm-up needs it.

    Raises BadInput if the two do not fit.
    """
    if config.filename != bundle.model.name:
        raise BadInput(
            f"model.runtime: {config.runtime} serves a {config.filename},"
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
                    f"model.{key}.{part}: is {value}, and the model in {bundle.folder} has {actual}"
                )
    if config.warmup == "sample" and not (bundle.folder / SAMPLE).is_file():
        raise BadInput(
            f"model.warmup.data: is sample, and {bundle.folder} holds no {SAMPLE};"
            " export it again, or set random"
        )
    if output.is_dir() and any(output.iterdir()) and not any(output.glob("*/config.pbtxt")):
        raise BadInput(f"{output}: is not empty and no model repository; it would be replaced")
    with written_aside(output) as aside:
        version = aside / config.name / str(config.version)
        version.mkdir(parents=True)
        shutil.copyfile(bundle.model, version / config.filename)
        if config.warmup == "sample":
            (aside / config.name / SAMPLE).parent.mkdir()
            shutil.copyfile(bundle.folder / SAMPLE, aside / config.name / SAMPLE)
        (aside / config.name / "config.pbtxt").write_text(config.to_text(), encoding="utf-8")
