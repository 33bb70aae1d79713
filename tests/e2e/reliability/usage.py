"""What the processes of a pod hold, sampled beside a load."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import node

# Not the pages of files, which grow and shrink with the page cache and with who else has them mapped.
OF_ITS_OWN = ("Pss_Anon:", "Pss_Shmem:")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """Samples of a pod: Unix time, its open files, seconds of processor, and bytes of memory by process."""

    pids: list[int]
    samples: list[list[float]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def take(self) -> None:
        files = processor = 0.0
        memory = []
        for pid in self.pids:
            proc = Path(f"/proc/{pid}")
            rollup = (proc / "smaps_rollup").read_text()
            own = [line.split()[1] for line in rollup.splitlines() if line.startswith(OF_ITS_OWN)]
            memory.append(1024.0 * sum(map(int, own)))
            files += len(list((proc / "fd").iterdir()))
            stat = (proc / "stat").read_text().rsplit(")", 1)[1].split()
            processor += (int(stat[11]) + int(stat[12])) / TICKS
        self.samples.append([time.time(), files, processor, *memory])

    def between(self, begin: float, end: float) -> np.ndarray:
        """Rows of samples."""
        rows = np.array(self.samples)
        return rows[(rows[:, 0] >= begin) & (rows[:, 0] < end)]

    def memory(self, begin: float, end: float) -> np.ndarray:
        return self.between(begin, end)[:, 3:].sum(axis=1)

    def memory_by_process(self, begin: float, end: float) -> dict[str, np.ndarray]:
        """Bytes of memory by "PID COMMAND"."""
        names = [f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}" for pid in self.pids]
        return dict(zip(names, self.between(begin, end)[:, 3:].T, strict=True))

    def files(self, begin: float, end: float) -> np.ndarray:
        return self.between(begin, end)[:, 1]

    def processor(self, begin: float, end: float) -> float:
        """Seconds of processor in that time."""
        rows = self.between(begin, end)[:, 2]
        return float(rows[-1] - rows[0])


@contextmanager
def watched(pod: dict[str, Any], every: float = 1.0) -> Iterator[Usage]:
    """Samples until the block ends. A process that ends meanwhile fails the test: none should."""
    # The sleep is between two looks at the pod's memory (files/start-triton.sh).
    usage = Usage([pid for pid, name in node.programs(pod).items() if name != "sleep"])
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not usage.stopped.wait(every):
                usage.take()
        except BaseException as error:
            errors.append(error)

    usage.take()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        usage.stopped.set()
        thread.join()
    assert not errors, f"a process of the pod is gone: {errors[0]}"
