"""TensorRT 10 on an NVIDIA GPU: its engine is a plan, bound to this very kind of GPU and this version."""

from __future__ import annotations

import ctypes
from importlib import import_module
from pathlib import Path
from typing import Any

from model_tools.config import RUNTIMES
from model_tools.console import BadInput, CheckFailed
from model_tools.engine.key import CALIBRATION, Limits

# CUdevice_attribute
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


class Builder:
    """One optimization profile: batches of 1 to `maximum`, kernels chosen for `preferred`."""

    revision = 1
    filename = "model.plan"
    precisions = RUNTIMES["tensorrt"][1]

    def version(self) -> str:
        return str(load().__version__)

    def device(self) -> dict[str, Any]:
        name, capability = gpu()
        return {"gpu": name, "compute_capability": capability}

    def profile(self, limits: Limits) -> dict[str, int]:
        return {"min": 1, "opt": limits.preferred, "max": limits.maximum}

    def build(self, model: Path, limits: Limits, output: Path) -> None:
        trt = load()
        logger = trt.Logger(trt.Logger.WARNING)
        builder = trt.Builder(logger)
        network = builder.create_network(0)  # 10.x has no implicit batch any more
        parser = trt.OnnxParser(network, logger)
        # From the file, not from bytes: weights outside the graph are found beside it.
        if not parser.parse_from_file(str(model)):
            raise BadInput(f"{model}: is no ONNX model ({parser.get_error(0).desc().strip()})")
        config = builder.create_builder_config()
        # The workspace keeps its default, all of the GPU's memory: nothing else runs on it before Triton.
        for flag in flags(limits.precision):
            config.set_flag(getattr(trt.BuilderFlag, flag))
        if limits.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default, with 10 bits of mantissa
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            profile.set_shape(tensor.name, *shapes(tensor.name, tuple(tensor.shape), limits))
        config.add_optimization_profile(profile)
        calibration = model.parent / CALIBRATION
        if limits.precision == "int8" and calibration.is_file():
            config.int8_calibrator = _calibrator(trt, calibration.read_bytes(), limits)
            config.set_calibration_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise CheckFailed(f"{model}: TensorRT {self.version()} can't build it; its log above says why")
        output.write_bytes(plan)


def flags(precision: str) -> tuple[str, ...]:
    """Names of BuilderFlag. INT8 may fall back to FP16 for a layer, which is faster than FP32 there."""
    return {"fp32": (), "fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8", "FP16")}[precision]


def shapes(
    name: str, shape: tuple[int, ...], limits: Limits
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Smallest, preferred and largest shape of an input [N, ...], whose unknown sizes are -1 in `shape`.

    Raises BadInput for a batch size that the model fixes to another one, and for any other unknown size.
    """
    if not shape or any(size < 0 for size in shape[1:]):
        raise BadInput(f"model.onnx: input {name} is {list(shape)}; only the first size may be unknown")
    batch, rest = shape[0], shape[1:]
    if batch not in (-1, limits.maximum):
        raise BadInput(
            f"--max-batch: is {limits.maximum}, and input {name} takes batches of {batch} and no other"
        )
    if batch != -1:
        return (shape, shape, shape)
    return ((1, *rest), (limits.preferred, *rest), (limits.maximum, *rest))


def gpu() -> tuple[str, str]:
    """Name and compute capability (such as "7.5") of the first GPU. Raises BadInput where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BadInput(f"--runtime: tensorrt needs an NVIDIA GPU and its driver ({error})") from error

    def call(function: str, *arguments: Any) -> None:
        status = getattr(cuda, function)(*arguments)
        if status:
            raise BadInput(f"--runtime: tensorrt needs an NVIDIA GPU; {function} fails with {status}")

    device, name, number = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDeviceGetName", name, len(name), device)
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        call("cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        capability.append(str(number.value))
    return name.value.decode(errors="replace"), ".".join(capability)


def load() -> Any:
    """TensorRT's module, whichever wheel it is from. Raises BadInput where it is missing or not 10.x."""
    for name in ("tensorrt", "tensorrt_bindings"):  # the wheel with libraries, and that without
        try:
            module = import_module(name)
        except ImportError as error:
            reason = error
            continue
        if module.__version__.split(".")[0] != "10":
            raise BadInput(f"--runtime: TensorRT {module.__version__} is installed, and 10.x is needed")
        return module
    raise BadInput(f"--runtime: tensorrt is not installed here ({reason})")


def _calibrator(trt: Any, scales: bytes, limits: Limits) -> Any:
    """Gives TensorRT the scales that an earlier calibration found; it never asks for pictures then."""

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def get_batch_size(self) -> int:
            return limits.preferred

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return scales

        def write_calibration_cache(self, cache: bytes) -> None:
            pass

    return Calibrator()
