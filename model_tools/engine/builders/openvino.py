"""OpenVINO on the CPU: its engine is the compiled model that `export_model` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from model_tools.config import OPENVINO_PRECISION, RUNTIMES
from model_tools.console import BadInput, CheckFailed
from model_tools.engine.key import Limits

# Instruction sets that OpenVINO chooses its kernels by, as /proc/cpuinfo calls them.
_INSTRUCTIONS = {
    "sse4_1", "sse4_2", "avx", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16",
}  # fmt: skip


class Builder:
    """Its engines take any batch size and any number of threads: the backend gives both as it loads one."""

    revision = 1
    filename = "model.blob"
    precisions = RUNTIMES["openvino"][1]

    def version(self) -> str:
        return str(_openvino().__version__)

    def device(self) -> dict[str, Any]:
        capabilities = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return {
            "architecture": os.uname().machine,
            "capabilities": sorted(capabilities),
            "instructions": sorted(_INSTRUCTIONS & set(_flags())),
        }

    def profile(self, limits: Limits) -> dict[str, Any]:
        return {}

    def settings(self, limits: Limits) -> dict[str, Any]:
        return {}

    def build(self, model: Path, limits: Limits, output: Path, cache: Path | None = None) -> dict[str, Any]:
        openvino = _openvino()
        try:
            # Not Core.read_model, which tries every format that it knows and blames none.
            frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            network = frontend.convert(frontend.load(str(model)))
        except Exception as error:  # a frontend raises types of its own
            raise BadInput(f"{model}: is no ONNX model ({_reason(error)})") from error
        core = openvino.Core()
        precision = OPENVINO_PRECISION[limits.precision]
        # As the backend does: a processor without bfloat16 computes in float32.
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            precision = "f32"
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
        try:
            engine = core.compile_model(network, "CPU", settings).export_model()
        except RuntimeError as error:
            raise CheckFailed(f"{model}: OpenVINO can't compile it ({_reason(error)})") from error
        output.write_bytes(engine.getbuffer() if hasattr(engine, "getbuffer") else engine)
        return {"precision": precision}


def _openvino() -> Any:
    try:
        import openvino
        import openvino.frontend
    except ImportError as error:
        raise BadInput(f"--runtime: openvino is not installed here ({error})") from error
    return openvino


def _flags() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line.partition(":")[2].split()
    return []


def _reason(error: Exception) -> str:
    """The line of OpenVINO's many that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    return (telling or lines or [type(error).__name__])[0]
