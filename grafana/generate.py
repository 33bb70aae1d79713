"""Writes the dashboards into the chart: `python -m grafana.generate`.

`--check` writes nothing and exits with 1 where a file is not what the Python gives.
"""

from __future__ import annotations

from pathlib import Path

import click

from grafana.boards import BOARDS
from grafana.encode import encode
from model_tools.console import CheckFailed, run

DASHBOARDS = Path(__file__).parents[1] / "charts" / "inference-system" / "dashboards"


def texts() -> dict[str, str]:
    """What the folder holds: the files' texts by name."""
    return {f"{board.name}.json": encode(board) for board in BOARDS}


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Write nothing; fail when a file is not current.")
def main(check: bool) -> None:
    wanted = texts()
    there = {file.name: file.read_text() for file in DASHBOARDS.glob("*")}
    if check:
        stale = sorted(name for name in wanted | there if wanted.get(name) != there.get(name))
        if stale:
            raise CheckFailed(f"dashboards are not current: {', '.join(stale)}; run `make dashboards`")
        return
    DASHBOARDS.mkdir(exist_ok=True)
    for name in there.keys() - wanted.keys():
        (DASHBOARDS / name).unlink()
    for name, text in wanted.items():
        (DASHBOARDS / name).write_text(text)


if __name__ == "__main__":
    run(main, "grafana.generate")
