"""`model-tools export`: a TensorFlow model to ONNX that takes raw pixels, checked against TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from model_tools import bundle
from model_tools.config import NAME
from model_tools.console import BadInput, CheckFailed
from model_tools.files import cached, written_aside

OPSET = 17  # the newest that tf2onnx writes and all of TensorRT 10, OpenVINO and ONNX Runtime read
PREPROCESSING = ("caffe", "tf", "torch", "none")  # as keras.applications names them
CHECKED_PICTURES = 8
RESIDUAL_GAIN = 0.25  # of what each block of a random ResNet-50 adds to its input


@dataclass(frozen=True)
class Source:
    """A TensorFlow model: `call` maps preprocessed fp32 NHWC pixels [N, H, W, C] to one fp32 output."""

    call: Callable[[Any], Any]
    holder: Any  # keeps the variables alive
    name: str
    architecture: str
    weights: str
    picture: tuple[int, int, int]
    output_name: str
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """How far ONNX is from TensorFlow on the same pictures.

    `absolute`: the largest difference of an output. `relative`: the same, in units of what tells pictures
    apart, which is the largest deviation of an output from its mean over the pictures; None where the
    pictures change the output by no more than rounding does, so that the comparison says little.
    """

    absolute: float
    relative: float | None


@click.command("export", short_help="A TensorFlow model to ONNX, checked against TensorFlow.")
@click.option("--output", required=True, metavar="DIR", type=click.Path(path_type=Path),
              help="Model directory to write; one that is there is replaced.")  # fmt: skip
@click.option("--model", default="resnet50", show_default=True, metavar="resnet50|PATH",
              help="Keras' ResNet-50, or a SavedModel folder or .keras file.")  # fmt: skip
@click.option("--weights", default="random", show_default=True, metavar="random|imagenet|PATH",
              help="Weights of ResNet-50; PATH is a Keras weights file (.weights.h5).")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the random weights.")
@click.option(
    "--name", default=None, help="The served model's name.  [default: resnet50, or the file's name]"
)
@click.option("--input-type", default="uint8", show_default=True, type=click.Choice(["uint8", "fp32"]),
              help="Type of the pixels in a request; always 0 to 255.")  # fmt: skip
@click.option("--preprocessing", default=None, type=click.Choice(PREPROCESSING),
              help="What the graph does to the pixels, as keras.applications names it."
                   "  [default: caffe for resnet50, none for PATH]")  # fmt: skip
@click.option("--saved-model", is_flag=True,
              help="Write model.savedmodel too, of the same function: the baseline of a ladder.")  # fmt: skip
@click.option("--tolerance", default=1e-4, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Largest difference between ONNX and TensorFlow that passes.")  # fmt: skip
@click.option("--relative-tolerance", default=1e-2, show_default=True,
              type=click.FloatRange(0, min_open=True),
              help="The same, in units of how much the output differs between pictures.")  # fmt: skip
def command(
    output: Path, model: str, weights: str, seed: int, name: str | None, input_type: str,
    preprocessing: str | None, saved_model: bool, tolerance: float, relative_tolerance: float,
) -> None:  # fmt: skip
    """Export a TensorFlow model to ONNX with its preprocessing inside.

    The server then takes raw RGB pixels, so no client can preprocess them differently. ONNX Runtime and
    TensorFlow answer the same real pictures; the largest difference is printed, and above the tolerance
    nothing is written.
    """
    found = export(
        output, model=model, weights=weights, seed=seed, name=name, input_type=input_type,
        preprocessing=preprocessing, saved_model=saved_model, tolerance=tolerance,
        relative_tolerance=relative_tolerance,
    )  # fmt: skip
    compared = "all pictures give the same output, so this says little: are the weights trained?"
    if found.relative is not None:
        compared = f"{found.relative:.2g} of the difference between pictures"
    click.echo(f"{output}: largest difference from TensorFlow {found.absolute:.2g} ({compared})")


def export(
    output: Path,
    *,
    model: str = "resnet50",
    weights: str = "random",
    seed: int = 0,
    name: str | None = None,
    input_type: str = "uint8",
    preprocessing: str | None = None,
    saved_model: bool = False,
    tolerance: float = 1e-4,
    relative_tolerance: float = 1e-2,
) -> Difference:
    """Writes the model directory `output` and returns the difference that was found.

    Raises BadInput for a model that can't be read or served, CheckFailed above a tolerance; `output` is then
    as it was before.
    """
    from model_tools.progress import steps

    if name is not None and not NAME.fullmatch(name):
        raise BadInput(f"--name: {name!r} may hold letters, digits, '.', '_' and '-' only")
    path = None if model == "resnet50" else Path(model)
    if path is not None:
        _check_path(path)
        if weights != "random":
            raise BadInput(f"--weights: {path} brings its own; only resnet50 takes weights")
    elif weights not in ("random", "imagenet") and not Path(weights).is_file():
        raise BadInput(f"--weights: {weights}: no such file (or random, or imagenet)")
    preprocessing = preprocessing or ("none" if path else "caffe")

    with written_aside(output) as folder, steps() as step:
        step("loading TensorFlow")
        _quiet_tensorflow()
        step("reading the model" if path else "making ResNet-50")
        source = _load(path) if path else _resnet50(weights, seed)
        if name is None and not NAME.fullmatch(source.name):
            raise BadInput(f"--model: {path}: {source.name!r} can't be a served model's name; give --name")
        step("converting to ONNX")
        serve = _serving_function(source, input_type, preprocessing)
        _convert(serve, source, folder / bundle.MODEL)
        step("comparing with TensorFlow")
        batch, expected, given = _answers(serve, folder / bundle.MODEL, source, input_type)
        found = difference(expected, given)
        _judge(found, tolerance, relative_tolerance)
        more = _save(serve, source, folder) if saved_model else []
        metadata = _metadata(source, name, input_type, preprocessing, found)
        bundle.write(folder, metadata, batch, expected, more)
    return found


def cached_resnet50(seed: int = 0) -> Path:
    """The model directory of ResNet-50 with random weights, exported at the first call."""

    def build(folder: Path) -> None:
        export(folder, seed=seed)

    return cached("models", key(str(seed)), build)


def key(*parts: str) -> str:
    """Changes with what an export is made of: `parts`, this project's code and its libraries."""
    made_of = [*parts, *(f"{name} {number}" for name, number in _versions().items())]
    for module in ("export", "pictures", "bundle"):
        made_of.append((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]


def _check_path(path: Path) -> None:
    """Says what is wrong with a model's path before TensorFlow is loaded, which takes seconds."""
    if not path.exists():
        raise BadInput(f"--model: {path}: no such SavedModel folder or .keras file (or resnet50)")
    if (
        path.is_dir()
        and not (path / "saved_model.pb").is_file()
        and not (path / "saved_model.pbtxt").is_file()
    ):
        raise BadInput(f"--model: {path}: is no SavedModel (it has no saved_model.pb)")
    if path.is_file() and path.suffix != ".keras":
        raise BadInput(f"--model: {path}: is neither a SavedModel folder nor a .keras file")
    file = path / "saved_model.pb" if path.is_dir() else path
    if file.is_file() and file.stat().st_size == 0:
        raise BadInput(f"--model: {file}: is empty")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise BadInput(f"--model: {path}: is no .keras file (those are zip archives)")


def _quiet_tensorflow() -> None:
    """Imports TensorFlow on the CPU, without the pages of log that hide the one line that matters."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # reproducible sums
    warnings.filterwarnings("ignore")
    with _silent_stderr():  # absl complains on stderr before any of its settings can be reached
        try:
            import tensorflow as tf
        except ImportError as error:
            raise BadInput("exporting needs TensorFlow: pip install 'inference-system[export]'") from error
    tf.get_logger().setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends file descriptor 2 to nowhere: for what C++ code writes."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _resnet50(weights: str, seed: int) -> Source:
    import keras

    keras.utils.set_random_seed(seed)
    application = keras.applications.ResNet50
    if weights == "imagenet":
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # Keras prints the download's progress there
                model = application(weights="imagenet")
        except Exception as error:
            raise BadInput(
                f"--weights imagenet: can't be downloaded ({_one_line(error)});"
                " use --weights PATH with a copy of the file, --model PATH with your own model,"
                " or --weights random"
            ) from error
    elif weights == "random":
        model = application(weights=None)
        _settle(model)
    else:
        try:
            model = application(weights=weights)
        except Exception as error:
            raise BadInput(
                f"--weights: {weights}: are no weights of ResNet-50 ({_one_line(error)})"
            ) from error
    return Source(
        call=lambda pixels: model(pixels, training=False),
        holder=model,
        name="resnet50",
        architecture="keras.applications.ResNet50",
        weights=f"random, seed {seed}" if weights == "random" else weights,
        picture=(224, 224, 3),
        output_name="probabilities",
        output_shape=(1000,),
    )


def _settle(model: Any) -> None:
    """Makes random weights tell pictures apart, as trained ones do.

    Fresh from the initializer, ResNet-50 gives every picture the same saturated class, and a comparison of
    outputs would compare nothing. Each block is close to the identity, as it is where training starts (Goyal
    et al., "Accurate, Large Minibatch SGD", 2017, section 5.1), for sixteen random blocks would leave little
    of the picture. Batch normalization takes its statistics from real pictures, as training would leave them,
    and the classifier is scaled so that the logits spread over a few units.
    """
    import keras
    import numpy as np

    from model_tools.pictures import pictures

    batch = keras.applications.resnet50.preprocess_input(pictures(16, 224, 224).astype(np.float32))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            if layer.name.endswith("_3_bn"):  # the last of a block
                layer.gamma.assign(np.full(layer.gamma.shape, RESIDUAL_GAIN, np.float32))
    model(batch, training=True)
    classifier = model.layers[-1]
    features = np.asarray(keras.Model(model.inputs, classifier.input)(batch, training=False))
    kernel, bias = (np.asarray(weight) for weight in classifier.get_weights())
    logits = features @ kernel
    kernel = kernel * np.float32(3.0) / logits.std(axis=0).mean()
    classifier.set_weights([kernel, bias - features.mean(axis=0) @ kernel])


def _load(path: Path) -> Source:
    try:
        return _load_saved_model(path) if path.is_dir() else _load_keras(path)
    except BadInput:
        raise
    except Exception as error:  # TensorFlow and Keras raise nearly anything for a file that is broken
        raise BadInput(f"--model: {path}: can't be read ({_one_line(error)})") from error


def _load_keras(path: Path) -> Source:
    import keras

    model = keras.saving.load_model(path, compile=False)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadInput(
            f"--model: {path}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs, not one each"
        )
    return Source(
        call=lambda pixels: model(pixels, training=False),
        holder=model,
        name=path.stem,
        architecture=model.name,
        weights=path.name,
        picture=_picture(path, model.inputs[0].shape, model.inputs[0].dtype),
        output_name=_identifier(getattr(model, "output_names", ["output"])[0]),  # a Sequential has none
        output_shape=_output(path, model.outputs[0].shape),
    )


def _load_saved_model(path: Path) -> Source:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    signature = model.signatures.get("serving_default")
    if signature is None:
        raise BadInput(f"--model: {path}: has no signature serving_default")
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadInput(f"--model: {path}: has {len(inputs)} inputs and {len(outputs)} outputs, not one each")
    ((input_name, spec),) = inputs.items()
    ((output_name, output_spec),) = outputs.items()
    if spec.shape.rank is None or output_spec.shape.rank is None:
        raise BadInput(f"--model: {path}: states no shape for its input or its output")
    return Source(
        call=lambda pixels: signature(**{input_name: pixels})[output_name],
        holder=model,
        name=path.resolve().name,
        architecture="SavedModel",
        weights=path.name,
        picture=_picture(path, spec.shape.as_list(), spec.dtype.name),
        output_name=_identifier(output_name),
        output_shape=_output(path, output_spec.shape.as_list()),
    )


def _picture(path: Path, shape: Any, data_type: str) -> tuple[int, int, int]:
    """Height, width and channels of an input that takes batches of pictures."""
    if data_type != "float32":
        raise BadInput(f"--model: {path}: takes {data_type}, and only float32 models are exported")
    if len(shape) != 4 or shape[0] is not None or None in shape[1:] or shape[3] not in (1, 3):
        shown = ", ".join("?" if size is None else str(size) for size in shape)
        raise BadInput(
            f"--model: {path}: takes [{shown}], and has to take [?, height, width, 1 or 3]:"
            " any batch, pictures of one size"
        )
    return shape[1], shape[2], shape[3]


def _output(path: Path, shape: Any) -> tuple[int, ...]:
    if len(shape) < 2 or shape[0] is not None or None in shape[1:]:
        shown = ", ".join("?" if size is None else str(size) for size in shape)
        raise BadInput(
            f"--model: {path}: gives [{shown}], and has to give any batch and fixed sizes after it"
        )
    return tuple(shape[1:])


def _serving_function(source: Source, input_type: str, preprocessing: str) -> Any:
    """A tf.function from raw pixels. The cast is first: TensorRT takes uint8 into nothing else."""
    import tensorflow as tf

    if preprocessing in ("caffe", "torch") and source.picture[2] != 3:
        raise BadInput(
            f"--preprocessing {preprocessing}: needs 3 channels, and the model takes {source.picture[2]}"
        )
    pixels = tf.TensorSpec(
        [None, *source.picture], tf.uint8 if input_type == "uint8" else tf.float32, name="image"
    )

    def serve(image: Any) -> dict[str, Any]:
        return {source.output_name: source.call(_preprocess(tf.cast(image, tf.float32), preprocessing))}

    function = tf.function(serve, input_signature=[pixels], autograph=False)
    try:
        function.get_concrete_function()
    except Exception as error:
        raise BadInput(f"--model: {source.name}: can't be traced ({_one_line(error)})") from error
    return function


def _preprocess(pixels: Any, preprocessing: str) -> Any:
    """What keras.applications does to fp32 RGB pixels in [0, 255]."""
    from keras.src.applications.imagenet_utils import preprocess_input

    if preprocessing == "none":
        return pixels
    return preprocess_input(pixels, data_format="channels_last", mode=preprocessing)


def _convert(serve: Any, source: Source, file: Path) -> None:
    import onnx
    import tf2onnx

    try:
        model, _ = tf2onnx.convert.from_function(serve, input_signature=serve.input_signature, opset=OPSET)
    except Exception as error:
        raise BadInput(f"--model: {source.name}: can't be converted to ONNX ({_one_line(error)})") from error
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    _name_constants(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _save(serve: Any, source: Source, folder: Path) -> list[str]:
    """Writes model.savedmodel, whose signature serving_default is `serve`; the names of its files."""
    import tensorflow as tf

    module = tf.Module()
    module.holder, module.serve = source.holder, serve
    target = folder / bundle.SAVED_MODEL
    tf.saved_model.save(module, str(target), signatures={"serving_default": serve.get_concrete_function()})
    files = sorted(file for file in target.rglob("*") if file.is_file() and file.stat().st_size)
    return [str(file.relative_to(folder)) for file in files]


def _name_constants(graph: Any) -> None:
    """Gives constants names and an order that are the same in every run, as tf2onnx's are not.

    The same model then has the same digest, and its image the same tag.
    """
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # branches see the names of the graph around them
    order: dict[str, str] = {}
    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in constants:
                new = f"const_{len(order)}" if name.startswith("const_") else name
                node.input[index] = order.setdefault(name, new)
    for name, new in order.items():
        constants[name].name = new
    used = [constants[name] for name in order]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _answers(serve: Any, file: Path, source: Source, input_type: str) -> tuple[Any, Any, Any]:
    """Real pictures, and what TensorFlow and ONNX Runtime make of them."""
    import numpy as np
    import onnxruntime

    from model_tools.pictures import pictures

    batch = pictures(CHECKED_PICTURES, *source.picture)
    if input_type == "fp32":
        batch = batch.astype(np.float32)
    expected = serve(batch)[source.output_name].numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = session.run([source.output_name], {"image": batch})[0]
    return batch, expected, given


def difference(expected: Any, given: Any) -> Difference:
    """Compares outputs for the same N pictures, [N, ...] each. Raises CheckFailed for infinities and NaN."""
    import numpy as np

    if not (np.isfinite(expected).all() and np.isfinite(given).all()):
        raise CheckFailed("the outputs hold values that are not finite")
    absolute = float(np.abs(expected - given).max())
    spread = float(np.abs(expected - expected.mean(axis=0)).max())
    told_apart = spread > 1e-5 * float(np.abs(expected).max())
    return Difference(absolute, absolute / spread if told_apart else None)


def _judge(found: Difference, tolerance: float, relative_tolerance: float) -> None:
    if found.absolute > tolerance:
        raise CheckFailed(
            f"ONNX differs from TensorFlow by {found.absolute:.2g}, above the tolerance of {tolerance:.2g}"
        )
    if found.relative is not None and found.relative > relative_tolerance:
        raise CheckFailed(
            f"ONNX differs from TensorFlow by {found.relative:.2g} of what tells pictures apart,"
            f" above the tolerance of {relative_tolerance:.2g}"
        )


def _metadata(
    source: Source, name: str | None, input_type: str, preprocessing: str, found: Difference
) -> dict[str, Any]:
    return {
        "name": name or source.name,
        "architecture": source.architecture,
        "weights": source.weights,
        "precision": "fp32",
        "input": {"name": "image", "data_type": input_type.upper(), "shape": list(source.picture)},
        "output": {"name": source.output_name, "data_type": "FP32", "shape": list(source.output_shape)},
        "preprocessing": {
            "mode": preprocessing,
            "pixels": f"{'RGB' if source.picture[2] == 3 else 'grey'}, NHWC, 0 to 255",
            "where": "in the graph",
        },
        "largest_difference": found.absolute,
        "largest_relative_difference": found.relative,
        "versions": _versions(),
        "opset": OPSET,
    }


def _versions() -> dict[str, str]:
    """Of the packages that decide what is exported; TensorFlow has one of two names."""
    versions = {}
    for package in ("tensorflow", "tensorflow-cpu", "keras", "tf2onnx", "onnx"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _identifier(name: str) -> str:
    """A tensor's name that is easy to type in a client: letters, digits and underscores."""
    return "".join(character if character.isalnum() else "_" for character in name)


def _one_line(error: BaseException) -> str:
    """The first line of an error that says something, cut to a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
