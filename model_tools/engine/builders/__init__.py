"""One small adapter a runtime; what is heavy is imported when an engine is asked of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from model_tools.console import BadInput
from model_tools.engine.key import Key, Limits, calibration_digest, model_digest

BUILDERS = {
    "openvino": "model_tools.engine.builders.openvino",
    "tensorrt": "model_tools.engine.builders.tensorrt",
}


class Builder(Protocol):
    """A runtime that makes engines. Its methods raise BadInput where the runtime is not installed."""

    revision: int  # changes when `build` would make another engine of the same model
    filename: str  # what Triton's backend looks for in the folder of a version
    precisions: tuple[str, ...]

    def version(self) -> str:
        """Of the runtime."""

    def device(self) -> dict[str, Any]:
        """What of this machine's hardware an engine is bound to. Raises BadInput without such hardware."""

    def profile(self, limits: Limits) -> dict[str, Any]:
        """The batch sizes that are built into an engine."""

    def settings(self, limits: Limits) -> dict[str, Any]:
        """What else the build is told that makes another engine."""

    def build(self, model: Path, limits: Limits, output: Path, cache: Path | None = None) -> dict[str, Any]:
        """Writes the engine of the ONNX file `model` to `output`, and describes it as plain data.

        `cache` is a folder for what makes the next build shorter. Raises BadInput for a model that the
        runtime can't read or build for what is asked, CheckFailed where it fails for a reason of its own.
        """


def builder(runtime: str) -> Builder:
    if runtime not in BUILDERS:
        raise BadInput(f"--runtime: {runtime} has no engines; {' and '.join(BUILDERS)} have")
    made: Builder = import_module(BUILDERS[runtime]).Builder()
    return made


def key(builder: Builder, runtime: str, folder: Path, limits: Limits) -> Key:
    """Of the engine that `builder` would make of the model in `folder` here."""
    if limits.precision not in builder.precisions:
        taken = " or ".join(builder.precisions)
        raise BadInput(f"--precision: {limits.precision} can't run on {runtime}, which takes {taken}")
    return Key(
        model=model_digest(folder),
        calibration=calibration_digest(folder),
        precision=limits.precision,
        runtime=runtime,
        version=builder.version(),
        builder=builder.revision,
        device=builder.device(),
        profile=builder.profile(limits),
        settings=builder.settings(limits),
    )
