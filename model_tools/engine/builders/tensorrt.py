"""TensorRT on an NVIDIA GPU: its engine is a plan, bound to this very kind of GPU and this version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_tools.config import RUNTIMES
from model_tools.console import BadInput, CheckFailed
from model_tools.engine.builders.eight import with_float_weights
from model_tools.engine.inspector import describe
from model_tools.engine.key import CALIBRATION, Limits
from model_tools.engine.trt import FLAGS, Generation, Log, cause, create, generation, gpu, load, uncollected

TIMINGS = "timing-{version}-{capability}.cache"  # in the folder of the engine cache


class Builder:
    """An optimization profile for each preferred size: batches of 1 to `maximum`, kernels chosen for it."""

    revision = 2
    filename = "model.plan"
    precisions = (*RUNTIMES["tensorrt"][1], "tf32")

    def version(self) -> str:
        return str(load().__version__)

    def device(self) -> dict[str, Any]:
        device = gpu()
        return {"gpu": device.name, "compute_capability": device.capability}

    def profile(self, limits: Limits) -> dict[str, Any]:
        return {"min": 1, "opt": list(limits.preferred), "max": limits.maximum}

    def settings(self, limits: Limits) -> dict[str, Any]:
        return {"level": limits.level, "workspace": limits.workspace}

    @uncollected()
    def build(self, model: Path, limits: Limits, output: Path, cache: Path | None = None) -> dict[str, Any]:
        trt = load()
        gpu()  # without one TensorRT fails in its own way, or takes the process with it
        log = Log(trt)
        builder = create(trt, "Builder", log)
        # The parser holds the weights that the network speaks of.
        network, parser, typed = self._network(trt, builder, log, model, limits.precision)
        config = builder.create_builder_config()
        _configure(trt, generation(trt.__version__), config, limits, typed)
        profiles = [_profile(builder, network, limits, size) for size in limits.preferred]
        for profile in profiles:
            config.add_optimization_profile(profile)
        calibrator = None  # TensorRT asks it while it builds
        if limits.precision == "int8" and "int8" not in _carried(trt, network):
            calibrator = self.calibrate(trt, network, config, model, limits)
            config.set_calibration_profile(profiles[0])
        timings = _timings(trt, cache)
        known = _read_timings(config, timings)
        plan = builder.build_serialized_network(network, config)
        del parser, calibrator, known
        if plan is None:
            refuse = BadInput if "out of GPU memory" in cause(log.errors) else CheckFailed
            raise refuse(f"{model}: TensorRT {trt.__version__} can't build it: {cause(log.errors)}")
        _write_timings(config, timings)
        content = bytes(plan)
        output.write_bytes(content)
        engine = create(trt, "Runtime", log).deserialize_cuda_engine(content)
        return {"typed": typed} | describe(trt, engine)

    def calibrated(self, model: Path) -> bool:
        """Whether INT8 is possible for a graph that holds no quantize nodes."""
        return (model.parent / CALIBRATION).is_file()

    def calibrate(self, trt: Any, network: Any, config: Any, model: Path, limits: Limits) -> Any:
        """Tells TensorRT the scales of the tensors, and gives what has to live until it has built."""
        calibrator = _calibrator(trt, (model.parent / CALIBRATION).read_bytes(), max(limits.preferred))
        config.int8_calibrator = calibrator
        return calibrator

    def _network(
        self, trt: Any, builder: Any, log: Log, model: Path, precision: str
    ) -> tuple[Any, Any, bool]:
        """Of the ONNX file, its parser, and whether its own types hold.

        Where TensorRT can tell types, they are read first and decide how it is built.
        """
        era = generation(trt.__version__)
        content = with_float_weights(model) if era.major == 8 and precision == "int8" else None
        network, parser = _parsed(trt, builder, log, model, era.network_flags(trt, typed=era.typed), content)
        typed = way(era, precision, _carried(trt, network), self.calibrated(model))
        if era.typed and not typed:
            network, parser = _parsed(trt, builder, log, model, era.network_flags(trt, typed=False))
        return network, parser, typed


def shapes(
    name: str, shape: tuple[int, ...], preferred: int, maximum: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Smallest, preferred and largest shape of an input [N, ...], whose unknown sizes are -1 in `shape`.

    Raises BadInput for a batch size that the model fixes to another one, and for any other unknown size.
    """
    if not shape or any(size < 0 for size in shape[1:]):
        raise BadInput(
            f"model.onnx: input {name} is {list(shape)}; only the first size may be unknown:"
            " export the model with fixed sizes"
        )
    batch, rest = shape[0], shape[1:]
    if batch not in (-1, maximum):
        raise BadInput(f"--max-batch: is {maximum}, and input {name} takes batches of {batch} and no other")
    if batch != -1:
        return (shape, shape, shape)
    return ((1, *rest), (preferred, *rest), (maximum, *rest))


def way(era: Generation, precision: str, carried: frozenset[str], calibrated: bool) -> bool:
    """Whether the graph's own types say the precision (else flags do). Raises BadInput where nothing can.

    `carried` is what the graph holds of fp16, bf16 and int8; `calibrated`: a calibration lies beside it.
    """
    lower = carried & {"fp16", "bf16"}
    if precision in ("fp32", "tf32"):
        if carried:
            raise BadInput(f"--precision: is {precision}, and model.onnx is {' and '.join(sorted(carried))}")
        return not era.flags
    if "int8" in carried and precision != "int8":
        raise BadInput(f"--precision: is {precision}, and model.onnx is quantized to int8")
    if lower and precision != "int8" and lower != {precision}:
        raise BadInput(f"--precision: is {precision}, and model.onnx is {' and '.join(sorted(lower))}")
    if precision == "int8" and "int8" not in carried and not (calibrated and "int8" in era.flags):
        known = "no quantize nodes" if not era.flags else f"neither quantize nodes nor a {CALIBRATION}"
        raise BadInput(f"--precision: is int8, and model.onnx has {known}: model-tools quantize makes one")
    if precision in carried and era.typed and (lower or not era.flags):
        return True
    if precision not in era.flags:
        raise BadInput(
            f"--precision: TensorRT {era.major} takes it from the graph, and model.onnx is fp32:"
            f" model-tools quantize --precision {precision} writes one"
            if era.typed
            else f"--precision: TensorRT {era.major} has no {precision}"
        )
    return False


def _parsed(
    trt: Any, builder: Any, log: Log, model: Path, flags: int, content: bytes | None = None
) -> tuple[Any, Any]:
    """`content` is read in place of the file."""
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.logger)
    # From the file, not from bytes: weights outside the graph are found beside it.
    if not (parser.parse_from_file(str(model)) if content is None else parser.parse(content)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise BadInput(_refusal(model, trt.__version__, errors))
    return network, parser


def _refusal(model: Path, version: str, errors: list[Any]) -> str:
    """One line about what the parser does not take."""
    for error in errors:
        code = str(error.code())
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        if operator and ("UNSUPPORTED" in code or "INVALID_NODE" in code):
            node = error.node_name() or f"number {error.node()}"
            return f"{model}: TensorRT {version} can't take operator {operator} of node {node}; replace it"
        if "UNSUPPORTED" in code or "INVALID_NODE" in code:
            hint = "; of INT8 models it takes those of model-tools quantize --rest fp32"
            said = f"{model}: TensorRT {version} can't take it: {error.desc().strip()}"
            return said + (hint if version.startswith("8.") and "Scale" in said else "")
    reason = errors[0].desc().strip() if errors else "no reason given"
    return f"{model}: is no ONNX model ({reason})"


def _carried(trt: Any, network: Any) -> frozenset[str]:
    """What of fp16, bf16 and int8 the network's own types are."""
    names = {
        getattr(trt.DataType, name): label
        for name, label in (("HALF", "fp16"), ("BF16", "bf16"))
        if hasattr(trt.DataType, name)
    }
    found = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE):
            found.add("int8")
        for number in range(layer.num_outputs):
            if (name := names.get(layer.get_output(number).dtype)) is not None:
                found.add(name)
    return frozenset(found)


def _configure(trt: Any, era: Generation, config: Any, limits: Limits, typed: bool) -> None:
    for flag in () if typed else FLAGS[limits.precision]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if limits.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, with 10 bits of mantissa
    if limits.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits.workspace)
    if limits.level is not None:
        config.builder_optimization_level = limits.level
    # What `inspect` shows: names and types of layers, kept in the plan. It runs no slower for them.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    era.configure(trt, config)


def _profile(builder: Any, network: Any, limits: Limits, preferred: int) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, *shapes(tensor.name, tuple(tensor.shape), preferred, limits.maximum))
    return profile


def _timings(trt: Any, cache: Path | None) -> Path | None:
    if cache is None:
        return None
    return cache / TIMINGS.format(version=trt.__version__, capability=gpu().capability)


def _read_timings(config: Any, file: Path | None) -> Any:
    """Gives TensorRT what earlier builds measured, and returns what has to live until it has built.

    A file that it does not take costs time and nothing else.
    """
    content = file.read_bytes() if file is not None and file.is_file() else b""
    for each in (content, b""):
        made = config.create_timing_cache(each)
        if made is not None and config.set_timing_cache(made, ignore_mismatch=False):
            return made
    return None


def _write_timings(config: Any, file: Path | None) -> None:
    if file is None:
        return
    aside = file.with_name(f".{file.name}.{id(config)}")
    try:
        aside.write_bytes(bytes(config.get_timing_cache().serialize()))
        aside.rename(file)
    except OSError:
        return  # a cache that can't be written: the engine's own entry says so in a line
    finally:
        aside.unlink(missing_ok=True)


def _calibrator(trt: Any, scales: bytes, batch: int) -> Any:
    """Gives TensorRT the scales that an earlier calibration found; it never asks for pictures then."""

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return scales

        def write_calibration_cache(self, cache: bytes) -> None:
            pass

    return Calibrator()
