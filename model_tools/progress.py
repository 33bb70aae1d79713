"""Progress on stderr, one line a step with its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any


class Steps:
    """Called with a text, it starts the next step; each finished step leaves a line with its seconds."""

    def __init__(self, console: Any, status: Any) -> None:
        self._console, self._status = console, status
        self._current: tuple[str, float] | None = None

    def __call__(self, text: str) -> None:
        self.finish()
        self._current = (text, monotonic())
        self._status.update(text)

    def update(self, text: str) -> None:
        """Shows how far the running step is; only where somebody watches."""
        self._status.update(text)

    def finish(self) -> None:
        if self._current is not None:
            self._console.print(f"{monotonic() - self._current[1]:6.1f} s  {self._current[0]}")


@contextmanager
def steps() -> Iterator[Steps]:
    """Gives what a verb announces its steps to."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("") as status:
        made = Steps(console, status)
        yield made
        made.finish()
