"""`model-tools regions`: the releases of a fleet. Helm does the work; this orders it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from model_tools.console import BadInput, CheckFailed

if TYPE_CHECKING:
    from model_tools.regions.fleet import Region
    from model_tools.regions.rollout import Outcome

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def command() -> None:
    """The releases of a fleet, one a region, over the kubeconfig's contexts.

    \b
    model-tools regions status
    model-tools regions diff --chart charts/inference-system
    model-tools regions upgrade --chart charts/inference-system --watch 10m
    """


def fleet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which releases are meant; the command gets them as `regions`."""
    from functools import wraps

    @wraps(function)
    def read(
        fleet: Path, files: tuple[Path, ...], contexts: tuple[str, ...], over: tuple[Path, ...], release: str,
        namespace: str, **others: Any,
    ) -> Any:  # fmt: skip
        from model_tools.regions.fleet import read_regions, region_files

        named = {}
        for each in contexts:
            region, equals, context = each.partition("=")
            if not (region and equals and context):
                raise BadInput(f"--context {each}: is no REGION=CONTEXT")
            named[region] = context
        regions = read_regions(fleet, region_files(files), named, over, release, namespace)
        return function(regions=regions, **others)

    for option in reversed(
        (
            click.option(
                "--fleet", type=FILE, default="values/fleet.yaml", show_default=True, help="Values of all."
            ),
            click.option(
                "--region", "files", type=FILE, multiple=True,
                help="Values of a region, may be repeated: their order is the upgrade's, but the region that"
                " holds the Gateway is the last.  [default: values/regions/*.yaml]",
            ),
            click.option(
                "--context", "contexts", multiple=True, metavar="REGION=CONTEXT",
                help="The kubeconfig's context of a region.  [default: the region's name]",
            ),
            click.option("--values", "over", type=FILE, multiple=True, help="Laid over every region's."),
            click.option("--release", default="inference-system", show_default=True),
            click.option("--namespace", default="inference", show_default=True),
        )
    ):  # fmt: skip
        read = option(read)
    return read


CHART = click.option(
    "--chart",
    type=click.Path(path_type=Path, exists=True),
    default="charts/inference-system",
    show_default=True,
    help="Folder or archive.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="For machines.")


@command.command("status")
@fleet
@AS_JSON
def status_command(regions: list[Region], as_json: bool) -> None:
    """Versions, pods, engines and error budgets of every region.

    Exit status 1: a region is not deployed, not ready, can't be asked, or has an alert that fires.
    """
    from rich.console import Console

    from model_tools.regions.status import status, table

    console = Console(stderr=True)
    with console.status(f"asks {len(regions)} regions"):
        found = status(regions)
    if as_json:
        click.echo(json.dumps([each.record() for each in found], indent=2))
    else:
        Console().print(table(found))
    if wrong := [f"{each.region.name}: {each.problem}" for each in found if each.problem]:
        raise CheckFailed("; ".join(wrong))


@command.command("diff")
@fleet
@CHART
@AS_JSON
def diff_command(regions: list[Region], chart: Path, as_json: bool) -> None:
    """What an upgrade would change, object by object. The clusters are asked whether they would take it."""
    from rich.console import Console
    from rich.text import Text

    from model_tools.regions.changes import changes
    from model_tools.regions.helm import Helm, HelmFailed

    console, found = Console(highlight=False), {}
    for region in regions:
        helm = Helm(region)
        try:
            with Console(stderr=True).status(region.name):
                found[region.name] = changes(helm.manifest(), helm.planned(chart))
        except HelmFailed as error:
            raise BadInput(f"{region.name}: {error}") from None
    if as_json:
        record = {name: [vars(change) for change in each] for name, each in found.items()}
        click.echo(json.dumps(record, indent=2))
        return
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for name, each in found.items():
        console.print(f"{name}: {len(each)} objects" if each else f"{name}: nothing changes", style="bold")
        for change in each:
            console.print(f"  {change.action} {change.kind} {change.name}")
            # An object that comes or goes is as long as it is, and its name says it.
            for line in change.diff.splitlines() if change.action == "changed" else ():
                console.print(Text(f"    {line}", style=colours.get(line[:1], "")))


@command.command("upgrade")
@fleet
@CHART
@click.option(
    "--watch",
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long a region's own requests have to meet its objectives before the next region begins.",
)
@click.option(
    "--load",
    "by_load_test",
    is_flag=True,
    help="Run each region's load test instead: for a fleet that nobody uses yet.",
)
@click.option("--timeout", default=3600, show_default=True, help="Seconds for one upgrade or rollback.")
@click.option("--all-back", is_flag=True, help="After a failure, take back the regions before it too.")
@AS_JSON
def upgrade_command(
    regions: list[Region], chart: Path, watch: str, by_load_test: bool, timeout: int, all_back: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Upgrade one region after another.

    Nothing is changed before every cluster has seen what it would get and takes it. Then each region is
    upgraded, and has to meet its objectives before the next one begins. The first that fails is taken back,
    and ends it with exit status 1. A region where nothing changes is passed over, so the same command goes on
    after a failure.
    """
    from model_tools.progress import steps
    from model_tools.regions.gate import by_load, by_traffic
    from model_tools.regions.helm import Helm
    from model_tools.regions.rollout import upgrade

    with steps() as report:
        gate = by_load(report.update) if by_load_test else by_traffic(watch, report.update)
        outcomes = upgrade(
            regions, chart, gate, all_back=all_back, report=report, helm=lambda region: Helm(region, timeout)
        )
    if as_json:
        click.echo(json.dumps([_record(outcome) for outcome in outcomes], indent=2))
    else:
        for outcome in outcomes:
            click.echo(
                f"{outcome.region.name}: {outcome.action}{f' ({outcome.reason})' if outcome.reason else ''}"
            )
    if failed := [each for each in outcomes if each.action in ("failed", "rolled back")]:
        raise CheckFailed("; ".join(f"{each.region.name}: {each.action}: {each.reason}" for each in failed))


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        "region": outcome.region.name,
        "action": outcome.action,
        "before": outcome.before,
        "reason": outcome.reason or None,
        "objectives": [
            {"name": each.objective.name, "met": each.met, "value": each.measured.value}
            for each in outcome.verdicts
        ],
    }
