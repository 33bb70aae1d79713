"""How long measurements take: progress on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]  # what is measured now, measurements done, measurements planned


@contextmanager
def progress() -> Iterator[Report]:
    """A bar with the time left; without a terminal, a line a measurement."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("left"), console=console, disable=not console.is_terminal,
    )  # fmt: skip
    task = bar.add_task("", total=None)
    began = time.monotonic()

    def report(what: str, done: int, planned: int) -> None:
        nonlocal began
        if done == 0:
            began = time.monotonic()
            bar.reset(task)
        bar.update(task, description=what, completed=done, total=planned)
        if not console.is_terminal and what:
            left = (time.monotonic() - began) / done * (planned - done) if done else None
            shown = f", {left:.0f} s left" if left else ""
            number = f"{done + 1} of {planned}: " if done < planned else ""
            console.print(f"{number}{what}{shown}", markup=False, soft_wrap=True)

    with bar:
        yield report
