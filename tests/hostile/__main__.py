"""`python -m tests.hostile --cases 100000`: the grammar at length, against Triton as the chart fences it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from model_tools.console import BadInput, CheckFailed, run

from .attack import attack, summary
from .stack import fenced


@click.command()
@click.option("--cases", default=100_000, show_default=True, type=click.IntRange(20))
@click.option("--only", type=click.Choice(["http", "grpc"]), help="The half of them that is sent over this.")
@click.option("--seed", default=1, show_default=True, help="Case n of a seed is always the same one.")
@click.option(
    "--json", "file", type=click.Path(path_type=Path), help="Write what was sent and found to this file."
)
def command(cases: int, only: str | None, seed: int, file: Path | None) -> None:
    """Send hostile requests over HTTP and gRPC; exit status 1 where one of them did harm."""
    with tempfile.TemporaryDirectory(prefix="inference-system-") as folder:
        try:
            with (
                fenced(Path(folder)) as stack,
                Progress(console=Console(stderr=True), transient=True) as progress,
            ):
                task = progress.add_task("cases", total=cases // 2 if only else cases)
                found = attack(stack, cases, seed, lambda sent: progress.update(task, completed=sent), only)
        except FileNotFoundError as error:
            raise BadInput(str(error)) from error
    click.echo(summary(found, file))
    if found.problems:
        raise CheckFailed("\n".join(found.problems[:10]))


if __name__ == "__main__":
    run(command, "hostile")
