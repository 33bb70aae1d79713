"""Progress on stderr, one line a step with its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Gives a function that starts the next step; each finished step leaves a line with its seconds."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    current: tuple[str, float] | None = None
    with console.status("") as status:

        def finish() -> None:
            if current is not None:
                console.print(f"{monotonic() - current[1]:6.1f} s  {current[0]}")

        def step(text: str) -> None:
            nonlocal current
            finish()
            current = (text, monotonic())
            status.update(text)

        yield step
        finish()
