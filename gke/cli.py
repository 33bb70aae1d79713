"""`python -m gke`: the clusters of a fleet on Google Cloud, and all that stands in front of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from model_tools.console import run

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Makes and removes what the values of a fleet need on Google Cloud: docs/gke.md."""


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option(
                "--fleet", type=FILE, default="values/fleet.yaml", show_default=True,
                help="Values of all regions.",
            ),
            click.option(
                "--region", "regions", type=FILE, multiple=True,
                help="Values of a region, may be repeated  [default: values/regions/*.yaml]",
            ),
            click.option(
                "--machine-type", help="Of the GPU nodes  [default: by triton.nodeSelector's accelerator]"
            ),
            click.option("--spot", is_flag=True, help="A second pool a region, of spot machines."),
            click.option("--dry-run", is_flag=True, help="Print the commands as a shell script, run none."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@cli.command()
@options
def setup(
    fleet: Path, regions: tuple[Path, ...], machine_type: str | None, spot: bool, dry_run: bool
) -> None:
    """Make what is not there yet: registries, clusters, GPU nodes, fleet, Gateway, address, certificates."""
    from gke import run as runner
    from gke.fleet import read_fleet
    from gke.steps import things

    found = read_fleet(fleet, _files(regions), machine_type)
    wanted = list(things(found, spot))
    if dry_run:
        click.echo(runner.script(runner.setup_lines(wanted)), nl=False)
        return
    runner.set_up(wanted)
    for protocol, host in found.hosts if found.certificate_map else ():
        name = f"{found.certificate_map}-{protocol}"
        click.echo(
            f"{host}: its zone needs the record of `gcloud certificate-manager dns-authorizations describe"
            f" {name}`, and an A record with the address {found.address or 'of the Gateway'}"
        )


@cli.command()
@options
@click.option("--yes", is_flag=True, help="Don't ask.")
def teardown(
    fleet: Path, regions: tuple[Path, ...], machine_type: str | None, spot: bool, dry_run: bool, yes: bool
) -> None:
    """Remove all of it, releases first. Images go with their registries."""
    from gke import run as runner
    from gke.fleet import read_fleet
    from gke.steps import releases, things

    found = read_fleet(fleet, _files(regions), machine_type)
    doomed = [*releases(found), *reversed(list(things(found, spot)))]
    if dry_run:
        click.echo(runner.script(runner.teardown_lines(doomed)), nl=False)
        return
    if not yes:
        names = ", ".join(region.cluster for region in found.regions)
        click.confirm(f"Remove {names} of project {found.project}, with their images?", abort=True)
    runner.tear_down(doomed)


def _files(given: tuple[Path, ...]) -> list[Path]:
    return list(given) or sorted(Path("values/regions").glob("*.yaml"))


def main() -> NoReturn:
    run(cli, "gke")
