"""Running an ONNX model on this processor, with what the processor can do and not what is hoped of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model_tools.console import BadInput

RUNTIMES = ("onnxruntime", "openvino")


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


def load(model: bytes, outputs: list[str], runtime: str, precision: str = "fp32") -> Loaded:
    """Compiles an ONNX model. `precision` is fp32 or bf16, and bf16 is OpenVINO's alone.

    Raises BadInput where the runtime is not installed, can't run the model, or does not know the precision.
    """
    if runtime == "openvino":
        return _openvino(model, outputs, precision)
    if precision != "fp32":
        raise BadInput(
            f"--compute: ONNX Runtime computes FP32 graphs in FP32; {precision} needs --runtime openvino"
        )
    return _onnxruntime(model, outputs)


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
