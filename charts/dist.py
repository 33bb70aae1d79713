"""Writes what is released: `python -m charts.dist [DIRECTORY]`, by default dist/.

The chart as an archive, without its optional dependency: it installs from this one file, on a cluster that
has a Prometheus operator already. With --with-stack, kube-prometheus-stack is fetched and travels inside.
And the wheel of `model-tools` and `loadtest`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click

from charts.package import CHART, package
from model_tools.console import CheckFailed, run

ROOT = CHART.parents[1]


def chart(directory: Path, with_stack: bool = False) -> Path:
    """Writes the chart's archive into `directory` and returns it. Raises CheckFailed where Helm can't."""
    import helm_python

    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        folder = package(Path(scratch) / CHART.name, keep_dependencies=with_stack)
        try:
            if with_stack:
                helm_python.dependency_update(folder)
            made = Path(helm_python.package(folder, destination=scratch))
        except helm_python.HelmError as error:
            raise CheckFailed(f"packaging the chart: {error}") from error
        return made.replace(directory / made.name)


def wheel(directory: Path) -> Path:
    """Writes the wheel into `directory` and returns it. Raises CheckFailed with what the build says."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", scratch]
        ended = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise CheckFailed(f"building the wheel: {ended.stderr.strip()}")
        (made,) = Path(scratch).glob("*.whl")
        return made.replace(directory / made.name)


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(path_type=Path), default=Path("dist"))
@click.option("--with-stack", is_flag=True, help="Put kube-prometheus-stack into the chart's archive.")
def main(directory: Path, with_stack: bool) -> None:
    click.echo(chart(directory, with_stack))
    click.echo(wheel(directory))


if __name__ == "__main__":
    run(main, "charts.dist")
