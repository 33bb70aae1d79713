"""How `loadtest run` shows itself: progress on stderr, a table on stdout, JSON in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtest.run import Report


@contextmanager
def progress() -> Iterator[Report]:
    """A bar a stage. Without a terminal, one line a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(
        *columns, TextColumn("{task.fields[shown]}"), console=console, disable=not console.is_terminal
    )
    tasks: dict[str, Any] = {}
    last = ""

    def report(stage: str, part: float, shown: str) -> None:
        nonlocal last
        if stage not in tasks:
            if last:
                bar.update(tasks[last], completed=1.0)
            tasks[stage] = bar.add_task(stage, total=1.0, shown="")
            last = stage
            if not console.is_terminal:
                console.print(stage)
        bar.update(tasks[stage], completed=part, shown=shown)

    with bar:
        yield report


def table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"Load of {result['end'] - result['start']:.0f} s", title_justify="left")
    shown.add_column("")
    for name in ("req/s", "p50", "p95", "p99", "max", "requests", "failed"):
        shown.add_column(name, justify="right")
    rows = list(result["protocols"].items())
    if len(rows) != 1:
        rows.append(("total", result["total"]))
    for name, part in rows:
        latency = [_milliseconds(part["latency"][key]) for key in ("p50", "p95", "p99", "max")]
        shown.add_row(
            name, f"{part['requests_per_second']:.1f}", *latency, str(part["requests"]), str(part["failures"])
        )
    Console().print(shown)


def warnings(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    for failure in result["failures"][:5]:
        console.print(
            f"{failure['count']} failed over {failure['protocol']}: {failure['error']}", markup=False
        )
    generator, total, settings = result["generator"], result["total"], result["settings"]
    offered = generator["offered_per_second"]
    if not offered:
        return
    if generator["held"]:
        console.print(
            f"{generator['held']} of {generator['offered']} requests waited for one of the "
            f"{settings['max_in_flight']} places in flight that a worker has (loadtest.maxInFlight): their "
            "latency counts that, but the server never had more at once."
        )
    if total["requests_per_second"] < 0.95 * offered:
        console.print(
            f"Offered {offered:.1f} requests/s, answered {total['requests_per_second']:.1f}: the server is "
            "slower than the rate or refuses some of it, and latencies grow for as long as it lasts."
        )


def offered(result: dict[str, Any]) -> None:
    """One line: what was asked for against what was sent and answered, and how late the generator was."""
    generator, total = result["generator"], result["total"]
    cpu = f"the busiest worker used {generator['cpu_percent']:.0f} % of a core"
    if not generator["offered_per_second"]:
        print(f"Closed loop of {result['settings']['users']} users; {cpu}")
        return
    late = ", ".join(f"{_milliseconds(generator['lag'][key])} ({key})" for key in ("p50", "p99", "max"))
    print(
        f"Offered {generator['offered_per_second']:.1f} requests/s ({result['settings']['arrival']}), sent "
        f"{generator['sent']} of {generator['offered']}, answered {total['requests_per_second']:.1f}/s; "
        f"sent late by {late}; at most {generator['in_flight_most']} in flight a worker; {cpu}"
    )


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes aside, then renames: whoever reads the file never sees half of it."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(result, indent=2) + "\n")
    aside.replace(path)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2g} ms"
