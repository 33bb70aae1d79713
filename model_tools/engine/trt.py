"""TensorRT 8.6, 10 and 11 by one interface: what changed between them is a `Generation`.

| | 8.6 | 10 | 11 |
|---|---|---|---|
| precision by flags, for a graph in FP32 | yes | yes | no |
| INT8 by a calibration beside the graph | yes | yes | no |
| precision by the graph's own types | no | yes | always |

A graph that carries FP16 or BF16 is built as it is typed wherever that can be; one with quantize and
dequantize nodes only gets FP16 for the rest where flags can say so.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from model_tools.console import BadInput
from model_tools.engine.cuda import Cuda, CudaError, Device

# BuilderFlag of a precision. INT8 may fall back to FP16 for a layer, which is faster than FP32 there.
FLAGS: dict[str, tuple[str, ...]] = {
    "fp32": (), "tf32": (), "fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8", "FP16"),
}  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """One of TensorRT's. `flags`: precisions that a flag can ask for; `typed`: graphs can say theirs."""

    major: int
    flags: frozenset[str]
    typed: bool

    def network_flags(self, trt: Any, typed: bool) -> int:
        """For create_network. 8.6 still has networks without a batch dimension; 11 knows typed ones only."""
        if self.major == 8:
            return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        if typed and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
            return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return 0

    def configure(self, trt: Any, config: Any) -> None:
        """What later releases do of themselves.

        Several contexts may use one profile at a time, as the instances of a Triton model do; and kernels are
        TensorRT's own, so that neither the build nor whoever runs the engine loads cuDNN and cuBLAS for them.
        """
        if self.major != 8:
            return
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
        sources = config.get_tactic_sources()
        for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
        config.set_tactic_sources(sources)


GENERATIONS = {
    8: Generation(8, frozenset({"fp16", "int8"}), typed=False),
    10: Generation(10, frozenset({"fp16", "bf16", "int8"}), typed=True),
    11: Generation(11, frozenset(), typed=True),
}


def load() -> Any:
    """TensorRT's module, whichever wheel it is from. Raises BadInput where it is missing or unknown."""
    for name in ("tensorrt", "tensorrt_bindings"):  # the wheel with libraries, and that without
        try:
            module = import_module(name)
        except ImportError as error:
            reason = error
            continue
        generation(module.__version__)
        return module
    raise BadInput(f"--runtime: tensorrt is not installed here ({reason})")


def generation(version: str) -> Generation:
    """Of a release such as 10.6.0. Raises BadInput for one that nobody tried."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if major not in GENERATIONS or (major == 8 and minor < 6):
        raise BadInput(f"--runtime: TensorRT {version} is installed, and 8.6, 10.x or 11.x is needed")
    return GENERATIONS[major]


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected in the block, as every call of TensorRT needs that logs.

    It logs by Python while it holds a lock that the end of an engine takes too: an engine that is collected
    just there waits for itself.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def create(trt: Any, kind: str, log: Log) -> Any:
    """A Builder or Runtime. Raises BadInput where TensorRT makes none, with what it says of that."""
    try:
        return getattr(trt, kind)(log.logger)
    except TypeError as error:  # of the bindings: "factory function returned nullptr"
        said = log.errors or log.warnings  # 8.6 only warns
        reason = cause(([line for line in said if "initialization" in line] or said)[:1])
        raise BadInput(f"--runtime: TensorRT {trt.__version__} does not start here: {reason}") from error


def gpu() -> Device:
    """The first GPU. Raises BadInput where there is none."""
    try:
        return Cuda().device
    except CudaError as error:
        raise BadInput(f"--runtime: tensorrt needs an NVIDIA GPU; {error}") from error


class Log:
    """What TensorRT complained about: `errors`, its own lines, while it worked for us."""

    def __init__(self, trt: Any) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        log = self

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    log.errors.append(message)
                elif severity == trt.ILogger.WARNING:
                    log.warnings.append(message)

        self.logger = Logger()


_MEMORY = re.compile(r"out ?of ?memory|could not be allocated|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE)
_WHERE = re.compile(
    r"^\s*(\[[^\]]*::[^\]]*\]|\d+: \[[^\]]*\])\s*|Error Code \d+: |\.? In \S+ at /\S+:\d+(?=\)|$| )"
)


def cause(errors: Iterable[str]) -> str:
    """The one line of TensorRT's errors that says why a build failed, without where in its source that is."""
    lines = [_WHERE.sub("", _WHERE.sub("", line)).strip() for line in errors]
    for line in lines:
        if _MEMORY.search(line):
            return (
                f"out of GPU memory ({line.rstrip('.')}): end what else runs on the GPU, lower --max-batch,"
                " or set --workspace"
            )
    return lines[-1].rstrip(".") if lines else "it gives no reason"


def incompatibility(errors: Iterable[str]) -> str:
    """What a plan is for, where TensorRT refuses it for that; "" where it refuses it for something else."""
    text = " ".join(errors)
    if found := re.search(r"expecting compute (\d+\.\d+) got compute (\d+\.\d+)", text):
        here, there = found.groups()
        return f"is for GPUs of compute capability {there}, and this one has {here}"
    for pattern in (
        r"expecting library version (\S+) got (?:version )?([\d.]+)",
        r"Current Version: (\d+), Serialized Engine Version: (\d+)",
        r"expected version (\S+?),? got (\d[\d.]*)",
    ):
        if found := re.search(pattern, text, re.IGNORECASE):
            here, there = (each.rstrip(".,)") for each in found.groups())
            return f"is of another TensorRT ({there}, and here is {here})"
    # The last is how 10 puts it of a plan of 8.
    if re.search(r"version tag|not compatible with this version|weight-separated plan", text, re.IGNORECASE):
        return "is of another TensorRT"
    return ""


@uncollected()
def deserialize(trt: Any, plan: Path) -> Any:
    """The ICudaEngine of a plan, on this GPU. Raises BadInput that says why it is none here."""
    try:
        content = plan.read_bytes()
    except OSError as error:
        raise BadInput(f"{plan}: {(error.strerror or 'can not be read').lower()}") from error
    log = Log(trt)
    runtime = create(trt, "Runtime", log)
    engine = runtime.deserialize_cuda_engine(content) if content else None
    if engine is None:
        why = incompatibility(log.errors)
        if why:
            raise BadInput(f"{plan}: {why}; build it here: model-tools engine build")
        if any(_MEMORY.search(line) for line in log.errors):
            raise BadInput(f"{plan}: out of GPU memory; end what else runs on the GPU")
        raise BadInput(f"{plan}: is no engine of TensorRT, or damaged ({cause(log.errors)})")
    return engine


@uncollected()
def context(engine: Any) -> Any:
    """An IExecutionContext of the engine, None where it gets no memory."""
    return engine.create_execution_context()
