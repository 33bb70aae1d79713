"""A row of docs/reliability.md: what was promised, what was done, and what became of the requests."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Row:
    """sent, failed: requests by protocol. may_fail: which of them may, and why. Seconds since the harm:
    recovered until the last request that failed was sent, whole until all pods were ready again."""

    name: str
    part: str  # faults, overload or soak
    promise: str
    fault: str
    load: str
    sent: dict[str, int]
    failed: dict[str, int]
    may_fail: str
    recovered: float
    whole: float | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")
