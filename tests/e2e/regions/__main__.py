"""Makes what the tests of several regions need and runs them: `make test-regions`.

Programs and images, two clusters, and a network namespace of its own for the load balancer, the clients and
the tests. The clusters are taken down afterwards.
"""

from __future__ import annotations

import os
import subprocess

import click

from cluster import components, preflight
from demo import BIN, Runner, Step, foreground, pytest
from model_tools.console import run

from .fleet import BUILD, CHART, IMAGES, MODEL, REPORT, TOXIPROXY, Region, fleet, geography

TESTS = "tests/e2e/regions"


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.option("--keep", is_flag=True, help="Leave the clusters up, for the next run.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENTS]")
def cli(keep: bool, arguments: tuple[str, ...]) -> int:
    preflight.check()
    go = preflight.go()
    regions = fleet(geography())
    try:
        Runner(BUILD / "regions" / "logs").run(steps(regions))
        tools = subprocess.run([BIN / "cluster", "tools"], capture_output=True, text=True, check=True)
        os.environ |= {
            "PATH": os.pathsep.join([tools.stdout.strip(), os.environ["PATH"], "/usr/sbin"]),
            TOXIPROXY: str(components.build(components.TOXIPROXY, go) / "toxiproxy"),
        }
        status = foreground(["unshare", "--net", "--", *pytest(TESTS, *arguments)])
        print(f"what was measured is in {REPORT}")
        return status
    finally:
        if not keep:
            for region in regions:
                region.down()


def steps(regions: list[Region]) -> list[Step]:
    python = [BIN / "python", "-m"]
    made: list[Step] = [
        Step("chart", [*python, "charts.package", CHART]),
        Step("load balancer", [*python, f"{__package__}.prepare", "programs"]),
        Step("definitions", [*python, f"{__package__}.prepare", "definitions"]),
        Step("model", [*python, f"{__package__}.prepare", "model"]),
        Step("programs", [BIN / "cluster", "build"]),
        Step("images", [*python, "images.build", "--values", IMAGES, "triton-cpu", "proxy", "tools"]),
        Step(
            "model image",
            [*python, "images.build", "--values", IMAGES, "--model", MODEL, "model"],
            ("model", "images"),
        ),
    ]
    needs = tuple(each.name for each in made)
    for region in regions:
        variables = [f"{name}={value}" for name, value in region.environment.items()]
        command = ["env", *variables, BIN / "cluster", "up", "--nodes", "1", "--images", IMAGES]
        made.append(Step(region.name, command, needs))
        needs = (*needs, region.name)  # two at once take longer than one after the other
    return made


if __name__ == "__main__":
    run(cli, "regions")
