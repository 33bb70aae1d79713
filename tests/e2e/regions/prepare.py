"""What the tests need and no other command makes: `python -m tests.e2e.regions.prepare WHAT`."""

from __future__ import annotations

import json
import shutil

import click

from cluster import components, preflight
from model_tools.console import run
from model_tools.files import written_aside

from .fleet import DEFINITIONS, MODEL


@click.group()
def cli() -> None:
    pass


@cli.command()
def programs() -> None:
    """toxiproxy, and Debian's HAProxy."""
    if not shutil.which("haproxy", path="/usr/sbin:/usr/bin"):
        preflight.install(["haproxy"], preflight.log())
    components.build(components.TOXIPROXY, preflight.go())


@cli.command()
def definitions() -> None:
    """The CRDs of the objects that a region of a fleet has: the Gateway API's and GKE's."""
    from tests.chart import schemas

    listed = {"apiVersion": "v1", "kind": "List", "items": [*schemas.gateway(), *schemas.gke()]}
    DEFINITIONS.parent.mkdir(parents=True, exist_ok=True)
    DEFINITIONS.write_text(json.dumps(listed))


@cli.command()
def model() -> None:
    """A network so small that both regions run on two processor cores."""
    from tests.networks import write_small

    with written_aside(MODEL) as folder:
        write_small(folder)


if __name__ == "__main__":
    run(cli, "prepare")
