"""What `cluster up` shows while it works: a line a step with the time it took, on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Steps may overlap. On a terminal running ones spin; elsewhere a line marks a start and an end."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._began = time.monotonic()

    def __enter__(self) -> Steps:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"      … {what}")
        task = self._live.add_task(what)
        try:
            yield
        finally:
            self._live.remove_task(task)
        self.say(f"{time.monotonic() - began:6.1f} s  {what}")

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def elapsed(self) -> float:
        return time.monotonic() - self._began
