"""Whether a process of the load test gets the processor time that it wants."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Usage:
    """Processor time of this process, and how long its main thread, which has the loop, wanted to run."""

    def __init__(self) -> None:
        # Nanoseconds on a processor, nanoseconds waiting for one, and a count: sched-stats in Linux's
        # documentation. The main thread's, whoever asks.
        self._stat = Path(f"/proc/self/task/{os.getpid()}/schedstat")
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        self._wanted = self._waited_and_ran()

    def read(self) -> dict[str, float]:
        """Since the beginning: seconds, cpu_seconds (all threads), and wanted_seconds of the main thread.

        A thread that is always running or waiting for a processor has no time left, however little it gets:
        on a busy machine cpu_seconds alone would not show that the generator is behind.
        """
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
            "wanted_seconds": self._waited_and_ran() - self._wanted,
        }

    def _waited_and_ran(self) -> float:
        try:
            ran, waited, _ = self._stat.read_text().split()
        except (OSError, ValueError):
            return 0.0  # not Linux, or a kernel without it: processor time has to do
        return (int(ran) + int(waited)) / 1e9
