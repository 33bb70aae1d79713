"""The model directory that `export` makes and everything else reads.

model.onnx, model.json (what it is), reference.npz (`pictures` as a request holds them, and `outputs`,
TensorFlow's answers to them, or a quantized model's own in ONNX Runtime, so that any server of it can be
checked without either),
warmup/sample (the first of the pictures, raw, for Triton's warm-up), and SHA256SUMS of them all. With
`export --saved-model` also model.savedmodel, which TensorFlow serves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.config import WARMUP_SAMPLE, Tensor
from model_tools.console import BadInput

MODEL, METADATA, REFERENCE, SUMS = "model.onnx", "model.json", "reference.npz", "SHA256SUMS"
SAMPLE = f"warmup/{WARMUP_SAMPLE}"
SAVED_MODEL = "model.savedmodel"


@dataclass(frozen=True)
class Bundle:
    """A model directory whose files are there and have the checksums that it states."""

    folder: Path
    metadata: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def input(self) -> Tensor:
        return _tensor(self.folder, self.metadata, "input")

    @property
    def output(self) -> Tensor:
        return _tensor(self.folder, self.metadata, "output")

    def reference(self) -> tuple[Any, Any]:
        """Pictures [N, *input shape] and TensorFlow's outputs [N, *output shape] for them."""
        import numpy as np

        with np.load(self.folder / REFERENCE) as arrays:
            return arrays["pictures"], arrays["outputs"]

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Reads and verifies `folder`. Raises BadInput that names a file missing, empty or changed."""
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder")
        verify(folder)
        try:
            metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder / METADATA}: not readable as JSON ({error})") from error
        if not isinstance(metadata, dict):
            raise BadInput(f"{folder / METADATA}: holds no mapping")
        bundle = cls(folder, metadata)
        if bundle.model.stat().st_size == 0:
            raise BadInput(f"{bundle.model}: is empty")
        bundle.input, bundle.output  # noqa: B018  raises what is wrong with them now, not later
        return bundle


def write(
    folder: Path, metadata: dict[str, Any], pictures: Any, outputs: Any, more: Sequence[str] = ()
) -> None:
    """Adds to the model.onnx in `folder` the other files; model.json gets its digest.

    more: names of further files that are there and get a checksum, too.
    """
    import numpy as np

    np.savez_compressed(folder / REFERENCE, pictures=pictures, outputs=outputs)
    (folder / SAMPLE).parent.mkdir()
    (folder / SAMPLE).write_bytes(pictures[0].tobytes())
    metadata = metadata | {"digest": f"sha256:{digest(folder / MODEL)}"}
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    lines = [f"{digest(folder / name)}  {name}\n" for name in (MODEL, METADATA, REFERENCE, SAMPLE, *more)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def checksums(text: str, origin: str) -> dict[str, str]:
    """File name to hex digest, from the coreutils format. Raises BadInput for any other line."""
    sums = {}
    for number, line in enumerate(text.splitlines(), start=1):
        sum_, _, name = line.partition(" ")
        name = name.removeprefix(" ").removeprefix("*")
        # A name that leaves the folder would let a bundle overwrite anything.
        if len(sum_) != 64 or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(f"{origin}: line {number} is not a checksum and a file name")
        sums[name] = sum_
    for name in (MODEL, METADATA):
        if name not in sums:
            raise BadInput(f"{origin}: names no {name}")
    return sums


def verify(folder: Path) -> None:
    """Raises BadInput that names the first file of SHA256SUMS that is missing, empty or changed."""
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{folder / SUMS}: is missing or not readable, so {folder} is no model directory"
        ) from error
    for name, stated in checksums(text, str(folder / SUMS)).items():
        file = folder / name
        if not file.is_file():
            raise BadInput(f"{file}: is missing")
        if file.stat().st_size == 0:
            raise BadInput(f"{file}: is empty")
        if digest(file) != stated:
            raise BadInput(f"{file}: is corrupt (its SHA-256 is not the one in {SUMS})")


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensor(folder: Path, metadata: dict[str, Any], key: str) -> Tensor:
    try:
        tensor = metadata[key]
        return Tensor(
            str(tensor["name"]), str(tensor["data_type"]), tuple(int(size) for size in tensor["shape"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{folder / METADATA}: states no {key} with name, data_type and shape") from error
