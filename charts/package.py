"""Copies the chart without its dependencies: `python -m charts.package [DIRECTORY]`, by default build/chart.

Helm refuses a chart whose dependencies have not been fetched, also where their condition leaves them out.
The copy installs as it is, on a cluster that has a Prometheus operator already.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from model_tools.console import BadInput, run

CHART = Path(__file__).parent / "inference-system"


def package(directory: Path, keep_dependencies: bool = False, source: Path = CHART) -> Path:
    """Writes the copy to `directory`, replacing one that is there, and returns it.

    keep_dependencies: whether Chart.yaml still names them; none is copied either way. source: the chart.

    Raises BadInput when the directory holds anything else.
    """
    import yaml

    if directory.exists() and not (directory / "Chart.yaml").is_file():
        raise BadInput(f"{directory} exists and is no chart")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        # Helm names what it installs after Chart.yaml, not after the folder.
        copy = Path(scratch) / CHART.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("charts", "Chart.lock", "*.tgz"))
        metadata = yaml.safe_load((copy / "Chart.yaml").read_text())
        if not keep_dependencies:
            del metadata["dependencies"]
        (copy / "Chart.yaml").write_text(yaml.safe_dump(metadata, sort_keys=False))
        shutil.rmtree(directory, ignore_errors=True)
        copy.rename(directory)
    return directory


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(path_type=Path), default=Path("build/chart"))
def main(directory: Path) -> None:
    click.echo(package(directory))


if __name__ == "__main__":
    run(main, "charts.package")
