"""`python -m benchmarks.scale`: the chart on 10, 100 and 1,000 simulated GPU nodes.

    export CLUSTER_NAME=scale && cluster up --nodes 1
    python -m benchmarks.scale                      measures, writes build/scale/NODES.json
    python -m benchmarks.scale --write              takes these over into docs/scale.md and its plot
    python -m benchmarks.scale --check              whether these are what the record says

kwok gives nodes to the embedded cluster's API server that are objects alone, and says of their pods that they
are ready, or gone, some seconds after a kubelet would have begun. Everything else is real: API server, etcd,
scheduler, controllers, kube-proxy, CoreDNS, Prometheus and its operator. What was made is removed afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from model_tools.console import interrupted_by, run

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "scale"


def sizes(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    try:
        found = [int(each) for each in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not numbers with commas between") from None
    # One more than a tenth is drained; a /16 of addresses, 250 of each /24.
    if not all(2 <= each <= 5000 for each in found):
        raise click.BadParameter("from 2 to 5000 nodes")
    return found


@click.command(help=__doc__.split("\n\n")[0])
@click.option(
    "--nodes", default="10,100,1000", show_default=True, callback=sizes, help="Sizes, with commas between."
)
@click.option(
    "--start", default=5.0, show_default=True, type=click.FloatRange(0, 600),
    help="Seconds from a pod's being scheduled to its being ready.",
)  # fmt: skip
@click.option(
    "--drain", default=5.0, show_default=True, type=click.FloatRange(0, 600),
    help="Seconds from a pod's being told to end to its being gone.",
)  # fmt: skip
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="A value of the chart, as helm takes it."
)
@click.option(
    "--wait", default="watcher", show_default=True, type=click.Choice(["watcher", "legacy", "hookOnly"]),
    help="How helm waits for pods; hookOnly: not at all.",
)  # fmt: skip
@click.option("--output", default=BUILD, type=click.Path(path_type=Path), help="Folder for NODES.json.")
@click.option("--write", is_flag=True, help="Measure nothing; write the record, the tables and the plot.")
@click.option("--check", is_flag=True, help="Measure nothing; status 1 where these are not current.")
def cli(
    nodes: list[int],
    start: float,
    drain: float,
    wait: str,
    sets: tuple[str, ...],
    output: Path,
    write: bool,
    check: bool,
) -> None:
    from . import report

    if write or check:
        report.write(output) if write else report.check()
        return
    _inside_the_cluster()
    from .measure import Measurement, Settings, remove

    with _everything(start, drain) as (fleet, usage, chart, scratch):
        for count in nodes:
            output.mkdir(parents=True, exist_ok=True)
            file = output / f"{count}.json"

            def keep(record: dict[str, Any], file: Path = file) -> None:
                file.write_text(json.dumps(record, indent=1) + "\n")

            measurement = Measurement(
                count, Settings(start, drain, wait, sets), fleet, usage, chart, scratch, keep, _say
            )
            try:
                measurement.run()
            finally:
                _say(f"{count} nodes: removing them")
                remove(usage.look)
            click.echo(report.table([measurement.record]))


def _say(what: str) -> None:
    click.echo(what, err=True)


def _inside_the_cluster() -> None:
    """Goes on where the cluster's network is, with helm and kubectl. Raises BadInput without a cluster."""
    from cluster import entering, lifecycle, paths

    lifecycle.require()
    if os.environ.get("KUBECONFIG") != str(paths.kubeconfig()):
        # A new process, since what is imported from here on reads the environment.
        entering.become([sys.executable, "-m", "benchmarks.scale", *sys.argv[1:]])


@contextmanager
def _everything(start: float, drain: float) -> Iterator[tuple[Any, Any, Path, Path]]:
    """kwok, the watches, the chart's copy and a folder for logs; nothing is left of them, nor of an earlier
    run that was killed."""
    from charts.package import package
    from cluster import cgroups, components, paths, preflight

    from . import simulated
    from .measure import NAMESPACE, remove
    from .usage import Usage
    from .watching import Fleet

    programs = components.build(components.KWOK, preflight.go())
    with (
        interrupted_by(signal.SIGTERM, signal.SIGHUP),
        tempfile.TemporaryDirectory(prefix="inference-system-scale-") as folder,
        simulated.kwok(programs, start, drain, Path(folder), str(paths.kubeconfig())) as kwok,
    ):
        remove()
        usage = Usage(lambda: cgroups.processes() | {kwok})
        chart = package(Path(folder) / "chart")
        yield Fleet(NAMESPACE, usage.look), usage, chart, Path(folder)


if __name__ == "__main__":
    run(cli, "benchmarks.scale")
