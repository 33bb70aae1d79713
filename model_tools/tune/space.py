"""What may be tuned, and the chart's values for a choice."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model_tools.values import Values


@dataclass(frozen=True, order=True)
class Choice:
    """One configuration. `delay` is in microseconds; `threads` of an instance, 0 where it takes none."""

    size: int
    preferred: bool
    delay: int
    instances: int
    threads: int

    def values(self) -> Values:
        """As the chart takes it, over whatever else a release says."""
        return {
            "model": {
                "instances": {"count": self.instances, "threads": self.threads},
                "batching": {
                    "maxSize": self.size,
                    "preferredSizes": [self.size] if self.preferred else [],
                    "maxQueueDelayMicroseconds": self.delay,
                },
            }
        }

    @property
    def cost(self) -> tuple[int, int]:
        """What it occupies: threads in all, and instances, each of which has its own copy of the model."""
        return self.instances * max(1, self.threads), self.instances

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        preferred = ", preferred" if self.preferred else ""
        threads = f" of {self.threads} threads" if self.threads else ""
        return (
            f"{self.instances} instances{threads}, batches of {self.size}{preferred}, delay {self.delay} us"
        )


@dataclass(frozen=True)
class Space:
    """The values that each setting may have, ascending."""

    sizes: Sequence[int]
    preferred: Sequence[bool]
    delays: Sequence[int]
    instances: Sequence[int]
    threads: Sequence[int]

    def choices(self) -> list[Choice]:
        """All that differ: without batches there is nothing to prefer or to wait for."""
        product = itertools.product(self.sizes, self.preferred, self.delays, self.instances, self.threads)
        return sorted({self.choice(*found) for found in product})

    def choice(self, size: int, preferred: bool, delay: int, instances: int, threads: int) -> Choice:
        if size == 1:
            preferred, delay = self.preferred[0], self.delays[0]
        return Choice(size, preferred, delay, instances, threads)

    def dimensions(self) -> dict[str, Sequence[Any]]:
        return {
            "size": self.sizes,
            "preferred": self.preferred,
            "delay": self.delays,
            "instances": self.instances,
            "threads": self.threads,
        }

    def first(self) -> list[Choice]:
        """Where a person would begin: the largest batch, on one instance with all threads, then on many with
        few."""
        most = max(self.threads)
        large = self.choice(max(self.sizes), self.preferred[-1], self.delays[0], min(self.instances), most)
        many = self.choice(
            max(self.sizes), self.preferred[0], self.delays[0], max(self.instances), min(self.threads)
        )
        return [large, many]
