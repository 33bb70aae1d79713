"""Running an ONNX model here, with what this processor or GPU can do and not what is hoped of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from model_tools.bundle import MODEL
from model_tools.console import BadInput

RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
BATCH = 16  # pictures at a time, at most


@dataclass(frozen=True)
class Loaded:
    """A model ready to run.

    run: a batch for the model's one input to the outputs asked for. version: of the runtime. computes:
    precision of what the graph does not type itself. note: one line where that is not what was asked for,
    else "".
    """

    run: Callable[[Any], list[Any]]
    version: str
    computes: str
    note: str = ""


def load(
    model: bytes, outputs: list[str], runtime: str, precision: str = "fp32", graph: str = "fp32"
) -> Loaded:
    """Compiles an ONNX model. `precision` is fp32 or bf16, and bf16 is OpenVINO's alone; `graph` is what the
    model itself is in, which TensorRT asks.

    Raises BadInput where the runtime is not installed, can't run the model, or does not know the precision.
    """
    if runtime == "tensorrt" and precision == "fp32":
        return _tensorrt(model, outputs, graph)
    if runtime == "openvino":
        return _openvino(model, outputs, precision)
    if precision != "fp32":
        raise BadInput(
            f"--compute: {runtime} computes FP32 graphs in FP32; {precision} needs --runtime openvino"
        )
    return _onnxruntime(model, outputs)


def version(runtime: str) -> str:
    """Of the runtime that is installed here, "" where none is."""
    if runtime == "tensorrt":
        from model_tools.engine.builders import builder

        return builder(runtime).version()
    try:
        return str(import_module(runtime).__version__)
    except ImportError:
        return ""


def _onnxruntime(model: bytes, outputs: list[str]) -> Loaded:
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput(
            "--runtime: onnxruntime is not installed: pip install 'inference-system[quantize]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; the rest is about CUDA and about FP16 kernels
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises types of its own
        raise BadInput(f"model.onnx: ONNX Runtime can't run it ({_line(error)})") from error
    given = session.get_inputs()[0].name

    def run(batch: Any) -> list[Any]:
        return list(session.run(outputs, {given: batch}))

    return Loaded(run, onnxruntime.__version__, "fp32")


def _openvino(model: bytes, outputs: list[str], precision: str) -> Loaded:
    try:
        import openvino
    except ImportError as error:
        raise BadInput(
            "--runtime: openvino is not installed: pip install 'inference-system[openvino]'"
        ) from error
    core = openvino.Core()
    capabilities = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    computes, note = choose(precision, capabilities)
    try:
        network = core.read_model(model=model)
        settings = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[computes]}
        compiled = core.compile_model(network, "CPU", settings)
        ports = [compiled.output(name) for name in outputs]
    except RuntimeError as error:
        raise BadInput(f"model.onnx: OpenVINO can't run it ({_line(error)})") from error

    def run(batch: Any) -> list[Any]:
        answers = compiled([batch])
        return [answers[port] for port in ports]

    return Loaded(run, openvino.__version__.split("-")[0], computes, note)


def _tensorrt(model: bytes, outputs: list[str], graph: str) -> Loaded:
    """Through an engine, as Triton would run it: fused, quantized and rounded by TensorRT's own kernels."""
    from model_tools.engine.builders import builder
    from model_tools.engine.key import Limits

    maker = builder("tensorrt")
    with tempfile.TemporaryDirectory(prefix="inference-system-") as folder:
        source, plan = Path(folder) / MODEL, Path(folder) / maker.filename
        source.write_bytes(model)
        # Faster kernels would answer the same, and take minutes to find.
        maker.build(source, Limits(graph, BATCH, (BATCH,), level=2), plan)
        infer = engine(plan)

    def run(batch: Any) -> list[Any]:
        answers = infer(batch)
        return [answers[name] for name in outputs]

    return Loaded(run, maker.version(), graph)


def engine(plan: Path) -> Callable[[Any], dict[str, Any]]:
    """A function from a batch for the plan's one input to all its outputs by name. Raises BadInput."""
    import ctypes

    import numpy as np

    from model_tools.engine import trt
    from model_tools.engine.cuda import Cuda

    cuda = Cuda()
    cuda.activate()
    module = trt.load()
    loaded = trt.deserialize(module, plan)
    context = trt.context(loaded)
    stream = cuda.stream()
    names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
    inputs = [name for name in names if loaded.get_tensor_mode(name) == module.TensorIOMode.INPUT]

    def run(batch: Any) -> dict[str, Any]:
        batch = np.ascontiguousarray(batch)
        context.set_input_shape(inputs[0], batch.shape)
        arrays = {
            name: batch
            if name in inputs
            else np.empty(tuple(context.get_tensor_shape(name)), module.nptype(loaded.get_tensor_dtype(name)))
            for name in names
        }
        places = {
            name: (cuda.allocate(array.nbytes), cuda.allocate_host(array.nbytes), array)
            for name, array in arrays.items()
        }
        try:
            for name, (device, host, array) in places.items():
                context.set_tensor_address(name, device)
                if name in inputs:
                    ctypes.memmove(host, array.ctypes.data, array.nbytes)
                    cuda.copy(device, host, array.nbytes, stream)
            if not context.execute_async_v3(stream):
                raise BadInput(f"{plan}: TensorRT can't run a batch of {list(batch.shape)}")
            for name, (device, host, array) in places.items():
                if name not in inputs:
                    cuda.copy(host, device, array.nbytes, stream)
            cuda.synchronize_stream(stream)
            for name, (_, host, array) in places.items():
                if name not in inputs:
                    ctypes.memmove(array.ctypes.data, host, array.nbytes)
        finally:
            for device, host, _ in places.values():
                cuda.free(device)
                cuda.free_host(host)
        return {name: array for name, array in arrays.items() if name not in inputs}

    return run


def choose(precision: str, capabilities: list[str]) -> tuple[str, str]:
    """(precision that OpenVINO computes in, one line that says why it is not `precision`).

    capabilities: OpenVINO's OPTIMIZATION_CAPABILITIES of this processor.
    """
    if precision == "bf16" and "BF16" not in capabilities:
        return "fp32", f"this processor has no BF16 ({', '.join(capabilities)}); OpenVINO computes in FP32"
    return precision, ""


def _line(error: Exception) -> str:
    """The line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    return (telling or lines or [type(error).__name__])[0][:200]
