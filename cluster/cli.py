"""`cluster`: an embedded Kubernetes for machines that have none."""

from __future__ import annotations

import json
from pathlib import Path

import click

from model_tools.console import BadInput, run

WORKERS = 2
ADD_ONS = ["keda"]


@click.group()
def cli() -> None:
    """A real Kubernetes on this machine, in namespaces of its own: a control plane and N GPU workers."""


@cli.command()
@click.option(
    "--nodes", default=WORKERS, show_default=True, type=click.IntRange(1, 50), help="Number of workers."
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Have the images in all nodes that this file, written by images.build, names.",
)
def up(nodes: int, images: Path | None) -> None:
    """Start the cluster, or see to it that it is up; builds what it needs once."""
    from cluster import lifecycle

    lifecycle.up(nodes, images)


@cli.command()
@click.option("--with", "add_on", type=click.Choice(ADD_ONS), help="Build this for `cluster add`, too.")
def build(add_on: str | None) -> None:
    """Build the cluster's programs and images into the cache and start nothing."""
    from cluster import lifecycle

    lifecycle.build(with_keda=add_on == "keda")


@cli.command()
@click.argument("add_on", type=click.Choice(ADD_ONS))
def add(add_on: str) -> None:
    """Put something into the running cluster that not every use of it needs; builds it once."""
    from cluster import lifecycle

    lifecycle.add_keda()


@cli.command()
def down() -> None:
    """End the cluster and leave nothing of it but the cache."""
    from cluster import lifecycle

    lifecycle.down()


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(as_json: bool) -> int:
    """Say what there is of the cluster; exit status 0 if it is up and 1 if not."""
    from cluster import lifecycle

    found = lifecycle.status()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(f"cluster is {found['state']}, {found['memory'] / 2**30:.2f} GiB of memory")
        for each in found["nodes"]:
            state = "ready" if each["ready"] else "not ready"
            click.echo(
                f"  {each['name']:14} {each['address']:12} {state:10} {each['gpus']} GPU  logs: {each['log']}"
            )
    return 0 if found["state"] == "up" else 1


@cli.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    no_args_is_help=True,
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD...")
def execute(command: tuple[str, ...]) -> None:
    """Run CMD where the cluster's network is, with KUBECONFIG set and helm and kubectl on PATH."""
    from cluster import entering, lifecycle

    lifecycle.require()
    entering.become(command)


@cli.command("load-image")
@click.argument("archives", nargs=-1, type=click.Path(path_type=Path), metavar="ARCHIVE...")
@click.option(
    "--values",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Load the images that this file, written by images.build, names.",
)
def load_image(archives: tuple[Path, ...], values: Path | None) -> None:
    """Import OCI or Docker image archives into every node."""
    from cluster import images, lifecycle
    from cluster.progress import Steps

    if not archives and not values:
        raise BadInput("load-image: name an archive, or --values")
    nodes = lifecycle.require()
    with Steps() as steps, steps.step(f"images into {len(nodes)} nodes"):
        if archives:
            images.load(nodes, list(archives))
        if values:
            images.load_missing(nodes, values)


@cli.command()
def kubeconfig() -> None:
    """Print the path of the cluster's kubeconfig; its address is reachable from `cluster exec`."""
    from cluster import lifecycle, paths

    lifecycle.require()
    click.echo(paths.kubeconfig())


@cli.command()
def tools() -> None:
    """Print the folder that holds helm and kubectl, fetched if need be."""
    from cluster import kube_tools

    click.echo(kube_tools.tools_folder())


def main() -> None:
    run(cli, "cluster")


if __name__ == "__main__":
    main()
