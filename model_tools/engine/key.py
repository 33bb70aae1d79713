"""What an engine depends on: it runs on the device and with the runtime that it was built for only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from model_tools.bundle import METADATA, MODEL, REFERENCE, SAMPLE, SUMS, digest
from model_tools.console import BadInput

CALIBRATION = "calibration.cache"  # TensorRT's, for INT8 without quantize nodes in the graph
ENGINES = ("model.plan", "model.blob")
DESCRIPTION = ".json"  # behind an engine's name: the file that says what it is
# What lies beside a model and does not change its engine.
_BESIDE = {
    METADATA, REFERENCE, SAMPLE, SUMS, CALIBRATION, "calibration.json", "evaluation.json",
    *ENGINES, *(name + DESCRIPTION for name in ENGINES),
}  # fmt: skip
MAXIMUM_LEVEL = 5  # of TensorRT's builder


@dataclass(frozen=True)
class Limits:
    """What the engine has to be able to do, and what its build may take.

    Sizes are batch sizes: it is tuned for each of `preferred`, in as many optimization profiles where the
    runtime has those. `level` is how long TensorRT looks for faster kernels, 0 to 5, None its default;
    `workspace` the bytes that a layer may use beside its tensors, 0 all of the GPU's memory.
    """

    precision: str
    maximum: int
    preferred: tuple[int, ...]
    level: int | None = None
    workspace: int = 0

    def __post_init__(self) -> None:
        if self.maximum < 1:
            raise BadInput(f"--max-batch: {self.maximum} is below 1")
        for size in self.preferred:
            if not 1 <= size <= self.maximum:
                raise BadInput(f"--preferred-batch: {size} is not within 1 and {self.maximum}")
        if not self.preferred or len(set(self.preferred)) < len(self.preferred):
            raise BadInput(f"--preferred-batch: {list(self.preferred)} has to name each size once")
        if self.level is not None and not 0 <= self.level <= MAXIMUM_LEVEL:
            raise BadInput(f"--level: {self.level} is not within 0 and {MAXIMUM_LEVEL}")
        if self.workspace < 0:
            raise BadInput(f"--workspace: {self.workspace} is below 0")


@dataclass(frozen=True)
class Key:
    """Two engines with the same key can take each other's place.

    model, calibration: digests of the files ("" where the model has no calibration); builder: revision of
    the code that calls the runtime; device: what of the hardware the engine is bound to; profile: the batch
    sizes that are built into it, settings: what else its build was told; none for a runtime to which that
    makes no difference.
    """

    model: str
    calibration: str
    precision: str
    runtime: str
    version: str
    builder: int
    device: Mapping[str, Any]
    profile: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Any]:
        """The key as plain data, which engine.json keeps."""
        parts: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return parts

    @cached_property
    def name(self) -> str:
        """SHA-256 of the parts as canonical JSON, in hex: the name of the cache's folder."""
        text = json.dumps(self.parts(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def difference(self, parts: Mapping[str, Any]) -> str:
        """The first part of another key that is not this one's, or "" for the same key."""
        own = self.parts()
        for part in sorted(own.keys() | parts.keys()):
            if own.get(part) != parts.get(part):
                return part
        return ""


def model_digest(folder: Path) -> str:
    """Of model.onnx and of any file of weights beside it. Raises BadInput where there is no model."""
    model = folder / MODEL
    if not model.is_file():
        raise BadInput(f"{model}: {'no such file' if folder.is_dir() else 'no such folder'}")
    if model.stat().st_size == 0:
        raise BadInput(f"{model}: is empty")
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_file() and name not in _BESIDE and not name.startswith("."):
            total.update(f"{digest(file)}  {name}\n".encode())
    return total.hexdigest()


def calibration_digest(folder: Path) -> str:
    file = folder / CALIBRATION
    return digest(file) if file.is_file() else ""
