"""How a tensor's absolute values are distributed, gathered batch by batch, in any order.

Each tensor has BINS bins over [0, 2^k), k the smallest that fits its largest value so far. When that grows,
bins are added together, which loses nothing: the edges of the coarser bins are edges of the finer ones. So
the counts depend on the values alone, not on how they came in batches, and a run that was interrupted can go
on. Between BINS/2 and BINS bins are in use at the end; TensorRT's entropy calibration has 2048.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.console import BadInput

BINS = 4096
_LOWEST = -60  # exponent of a range so small that only zeros were seen


@dataclass
class Histograms:
    """counts: int64 [tensors, BINS]; of each tensor exponents, k of its range, and largest, its amax."""

    tensors: tuple[str, ...]
    counts: Any
    exponents: Any
    largest: Any
    pictures: int = 0

    @classmethod
    def empty(cls, tensors: tuple[str, ...]) -> Histograms:
        import numpy as np

        shape = len(tensors)
        return cls(
            tensors, np.zeros((shape, BINS), np.int64), np.full(shape, _LOWEST), np.zeros(shape, np.float64)
        )

    def add(self, index: int, values: Any) -> None:
        """Counts a tensor's values of one batch, any shape. Raises BadInput where they are not finite."""
        import numpy as np

        flat = np.abs(np.asarray(values, np.float32).ravel())
        largest = float(flat.max(initial=0.0))
        if not np.isfinite(largest):
            raise BadInput(
                f"model.onnx: {self.tensors[index]} is not finite on these pictures, so it has no range"
            )
        self.largest[index] = max(self.largest[index], largest)
        # frexp: largest = m 2^k with m in [0.5, 1), so largest < 2^k.
        self.widen(index, int(np.frexp(largest)[1]) if largest > 0 else _LOWEST)
        # Scaling by a power of two is exact, so a value's bin is, too.
        bins = (flat * np.float32(2.0 ** (np.log2(BINS) - self.exponents[index]))).astype(np.intp)
        self.counts[index] += np.bincount(bins, minlength=BINS)

    def widen(self, index: int, exponent: int) -> None:
        """Makes a range 2^exponent where it is smaller."""
        steps = max(0, exponent - int(self.exponents[index]))
        if steps:
            width = min(2**steps, BINS)
            merged = self.counts[index].reshape(-1, width).sum(axis=1)
            self.counts[index] = 0
            self.counts[index, : len(merged)] = merged
            self.exponents[index] += steps

    def bins(self, index: int) -> tuple[Any, float]:
        """(counts up to the last bin in use, width of a bin)."""
        import numpy as np

        used = int(np.flatnonzero(self.counts[index]).max(initial=0)) + 1
        return self.counts[index, :used], float(2.0 ** int(self.exponents[index])) / BINS

    def save(self, file: Path) -> None:
        """Writes the state aside and renames it, so that a file is there whole or not at all."""
        import numpy as np

        aside = file.with_name(f".{file.name}.writing")
        with aside.open("wb") as stream:
            np.savez_compressed(
                stream,
                tensors=np.array(self.tensors),
                counts=self.counts,
                exponents=self.exponents,
                largest=self.largest,
                pictures=self.pictures,
            )
        aside.rename(file)

    @classmethod
    def load(cls, file: Path) -> Histograms:
        """Raises OSError, ValueError, KeyError or a zip's errors for what is no such state."""
        import numpy as np

        with np.load(file) as state:
            return cls(
                tuple(str(name) for name in state["tensors"]),
                state["counts"],
                state["exponents"],
                state["largest"],
                int(state["pictures"]),
            )
