"""`model-tools quantize`: an FP32 model directory to one of the same kind in FP16 or INT8."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_tools import bundle
from model_tools.bundle import Bundle
from model_tools.console import BadInput, CheckFailed
from model_tools.files import written_aside
from model_tools.quantize.methods import METHODS, PERCENTILE

if TYPE_CHECKING:
    from model_tools.progress import Steps
    from model_tools.quantize.graph import Graph

PIXELS = {"UINT8": "uint8", "FP32": "float32"}  # of what `export` writes
CALIBRATION = "calibration.json"  # ranges by tensor, for people and for tools that take ranges


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized; all but the precision is about INT8.

    rest: precision of what is not INT8. excluded: names or operators of nodes that stay in `rest`.
    """

    precision: str
    calibration: str | None = None
    method: str = "percentile"
    percentile: float = PERCENTILE
    pictures: int = 500
    rest: str = "fp16"
    correct_biases: bool = True
    excluded: tuple[str, ...] = ()


@click.command("quantize", short_help="FP32 to FP16, or to INT8 calibrated on pictures.")
@click.argument("folder", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.argument("output", metavar="DEST", type=click.Path(path_type=Path))
@click.option("--precision", required=True, type=click.Choice(["fp16", "int8"]))
@click.option("--calibration", metavar="PATH|photographs|digits",
              help="Pictures like those that will be served: a folder (with or without folders of classes), "
              ".npz or TFRecord file; or what dependencies carry. INT8 needs them.")  # fmt: skip
@click.option("--method", default="percentile", show_default=True, type=click.Choice(METHODS),
              help="Values to keep: all, a percentile, or those that keep most information.")  # fmt: skip
@click.option("--percentile", default=PERCENTILE, show_default=True, metavar="PERCENT",
              type=click.FloatRange(50, 100, min_open=True), help="Share of values to keep.")  # fmt: skip
@click.option("--pictures", default=500, show_default=True, type=click.IntRange(1), metavar="N",
              help="Largest number of pictures to calibrate on.")  # fmt: skip
@click.option("--rest", default="fp16", show_default=True, type=click.Choice(["fp16", "fp32"]),
              help="What is not INT8. fp16 is what GPUs are fast in, and needs ONNX opset 19, which TensorRT "
              "8 does not read.")  # fmt: skip
@click.option("--bias-correction/--no-bias-correction", "correct_biases", default=True, show_default=True,
              help="Let biases make up for what quantizing shifts in the mean.")  # fmt: skip
@click.option("--exclude", "excluded", multiple=True, metavar="NODE",
              help="Name or operator of nodes that are not to be INT8; may be given again.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(
    folder: Path, output: Path, precision: str, calibration: str | None, method: str, percentile: float,
    pictures: int, rest: str, correct_biases: bool, excluded: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Quantize the model of MODEL_DIR into the model directory DEST.

    Input and output stay what they are. The calibration is kept in the cache: the same model and pictures
    cost it once, for all methods, and an interrupted run goes on where it was.
    """
    recipe = Recipe(precision, calibration, method, percentile, pictures, rest, correct_biases, excluded)
    report = quantize(folder, output, recipe)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"{output}: {precision}, largest difference from FP32 {report['largest_difference']:.2g}")
    if report["saturated_constants"]:
        click.echo(
            f"{report['saturated_constants']} constants are beyond FP16's 65504 (the largest is"
            f" {report['largest_constant']:.3g}) and were cut to it; evaluate the model",
            err=True,
        )


def quantize(folder: Path, output: Path, recipe: Recipe) -> dict[str, Any]:
    """Writes the model directory `output` and returns what was done.

    Raises BadInput or CheckFailed; `output` is then as it was before.
    """
    from model_tools.progress import steps
    from model_tools.quantize.graph import Graph, simplify

    _libraries()
    if recipe.precision == "int8" and recipe.calibration is None:
        raise BadInput("--calibration: INT8 needs pictures: a folder, .npz or TFRecord file, or photographs")
    source = Bundle.load(folder)
    if source.input.data_type not in PIXELS:
        raise BadInput(f"{folder}: takes {source.input.data_type}, and pictures are {' or '.join(PIXELS)}")
    if source.metadata.get("precision", "fp32") != "fp32":
        raise BadInput(f"{folder}: is {source.metadata['precision']} already; quantize the FP32 model")
    with written_aside(output) as aside, steps() as step:
        step("simplifying the graph")
        graph = Graph.load(source.model)
        _check_shape(graph, source)
        simplify(graph)
        report: dict[str, Any] = {"precision": recipe.precision, "source": _digest(source)}
        files = []
        if recipe.precision == "int8":
            report |= _to_int8(graph, source, recipe, step)
            files.append(CALIBRATION)
            (aside / CALIBRATION).write_text(
                json.dumps(report.pop("ranges"), indent=2) + "\n", encoding="utf-8"
            )
        report |= {"saturated_constants": 0, "largest_constant": 0.0}
        if recipe.precision == "fp16" or recipe.rest == "fp16":
            from model_tools.quantize.half import to_half

            step("converting to FP16")
            saturation = to_half(graph)
            report |= {"saturated_constants": saturation.values, "largest_constant": saturation.largest}
        step("checking the graph")
        _save(graph, aside / bundle.MODEL)
        step("comparing with FP32")
        pixels, expected = source.reference()
        answers = _answers(aside / bundle.MODEL, source, pixels)
        report["largest_difference"] = float(abs(answers - expected).max())
        metadata = source.metadata | {
            "precision": recipe.precision,
            "quantization": report,
            "opset": _opset(graph),
        }
        bundle.write(aside, metadata, pixels, answers, files)
    return report


def _to_int8(graph: Graph, source: Bundle, recipe: Recipe, step: Steps) -> dict[str, Any]:
    """Puts Q/DQ pairs into the graph; what was done, with the ranges by tensor."""
    from model_tools.datasets import spread
    from model_tools.quantize import bias
    from model_tools.quantize.calibrate import digest_of, histograms, pixels_of
    from model_tools.quantize.methods import ranges
    from model_tools.quantize.placement import place
    from model_tools.quantize.qdq import insert

    placement = place(graph, recipe.excluded)
    step("reading the calibration's pictures")
    assert recipe.calibration is not None
    pixels = pixels_of(recipe.calibration, source.input.shape, recipe.pictures)
    model = graph.finished().SerializeToString()

    began = False

    def advance(done: int) -> None:
        nonlocal began
        if not began:
            step(f"calibrating on {len(pixels)} pictures" + (f" ({done} of them before)" if done else ""))
            began = True
        step.update(f"calibrating: {done} of {len(pixels)} pictures")

    found = histograms(model, placement.tensors, pixels, PIXELS[source.input.data_type], advance)
    kept = ranges(found, recipe.method, recipe.percentile)
    part = pixels[spread(len(pixels), bias.PICTURES)]
    given = PIXELS[source.input.data_type]
    expected = []
    if recipe.correct_biases:
        step("measuring the mean of each channel")
        expected = bias.means(graph, part, given)
    insert(graph, placement, kept, half=recipe.rest == "fp16")
    if recipe.correct_biases:
        step(f"correcting the biases of {len(expected)} layers")
        bias.correct(
            graph, expected, part, given, lambda done: step.update(f"correcting biases: layer {done}")
        )
    done = {
        "method": recipe.method,
        "rest": recipe.rest,
        "calibration": f"sha256:{digest_of(pixels)}",
        "pictures": len(pixels),
        "tensors": len(placement.tensors),
        "layers": len(placement.weighted),
        "bias_correction": recipe.correct_biases,
        "excluded": list(recipe.excluded),
        "ranges": kept,
    }
    return done | ({"percentile": recipe.percentile} if recipe.method == "percentile" else {})


def _libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise BadInput(f"quantizing needs {error.name}: pip install 'inference-system[quantize]'") from error


def _check_shape(graph: Graph, source: Bundle) -> None:
    """Raises BadInput for a model that takes other pictures than model.json says, or one batch size alone."""
    given = graph.model.graph.input
    sizes = [
        size.dim_value if size.HasField("dim_value") else None for size in given[0].type.tensor_type.shape.dim
    ]
    if len(given) != 1 or len(sizes) != 4 or sizes[0] is not None or tuple(sizes[1:]) != source.input.shape:
        shown = ", ".join("?" if size is None else str(size) for size in sizes)
        wanted = ", ".join(map(str, source.input.shape))
        raise BadInput(
            f"{source.model}: takes [{shown}], and has to take [?, {wanted}]: any batch, pictures of one size"
        )


def _digest(source: Bundle) -> str:
    return f"sha256:{bundle.digest(source.model)}"


def _save(graph: Graph, file: Path) -> None:
    """Checks the graph's types and shapes strictly, and writes it."""
    try:
        model = graph.finished()
    except Exception as error:  # the checker raises types of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"model.onnx: an operator in it can't be quantized so ({reason[:200]}); name it with --exclude,"
            " or choose --rest fp32"
        ) from error
    file.write_bytes(model.SerializeToString())


def _answers(model: Path, source: Bundle, pixels: Any) -> Any:
    """What the quantized model makes of the pictures. Raises BadInput where ONNX Runtime can't run it."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        answers = session.run([source.output.name], {source.input.name: pixels})[0]
    except Exception as error:  # ONNX Runtime raises types of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"model.onnx: ONNX Runtime can't run the quantized model ({reason[:200]})") from error
    if not np.isfinite(answers).all():
        raise CheckFailed(
            "the quantized model's answers are not finite: values are beyond what FP16 holds (65504);"
            " choose --precision int8 with --rest fp32"
        )
    return answers


def _opset(graph: Graph) -> int:
    return next(one.version for one in graph.model.opset_import if one.domain in ("", "ai.onnx"))
