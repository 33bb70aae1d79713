"""`model-tools plan`: nodes, batching, autoscaling and cost of each region for its traffic."""

from __future__ import annotations

import json
from pathlib import Path

import click


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from model_tools.plan.curves import all_shipped

    for curve in all_shipped():
        gpu = curve.name.rsplit(" ", 1)[0]
        most = max(curve.points, key=lambda point: point.batch * point.instances / point.typical)
        rate = most.batch * most.instances / most.typical * 1000
        click.echo(
            f"--gpu {gpu:12} {curve.precision:10} {curve.kind:10} up to {rate:7,.0f}/s,"
            f" batches of {most.batch} on {most.instances}; {curve.notes[0]}"
        )
    context.exit()


@click.command("plan", short_help="Nodes, batching, autoscaling and cost of each region for its traffic.")
@click.argument("traffic", metavar="TRAFFIC", type=click.Path(path_type=Path))
@click.option("--values", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="Values over the chart's, as for helm; may be given again.")  # fmt: skip
@click.option("--gpu", default="t4", show_default=True, metavar="NAME", help="A curve that comes along.")
@click.option("--curve", "file", metavar="FILE", type=click.Path(path_type=Path),
              help="A curve of your own, as `engine bench --json` prints it; in place of --gpu.")  # fmt: skip
@click.option("--precision", metavar="NAME", help="Of the curve.  [values: model.precision]")
@click.option("--price", type=click.FloatRange(0), metavar="NUMBER",
              help="Of a node, an hour, in any currency.  [the traffic's]")  # fmt: skip
@click.option("--growth", type=click.FloatRange(-0.99), metavar="NUMBER",
              help="Of the traffic, a year: 0.4 is 40 %.  [the traffic's]")  # fmt: skip
@click.option("--keep-batching", is_flag=True, help="Plan with the values' batching and instances.")
@click.option("--spare/--no-spare", default=True, show_default=True,
              help="Whether the loss of any one region has to be survived.")  # fmt: skip
@click.option("--load", "share", default=0.7, show_default=True, metavar="NUMBER",
              type=click.FloatRange(0, 0.7, min_open=True),
              help="Of what a pod serves within the objectives, what it is to get.")  # fmt: skip
@click.option("--balancer", default="random", show_default=True, type=click.Choice(["random", "round-robin"]),
              help="Who gets the next of a region's requests: any pod, or the next in turn.")  # fmt: skip
@click.option("--node-start", default=300.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0, 3600),
              help="From a pod that is asked for to one that serves, on a new node.")  # fmt: skip
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path),
              help="Folder for a page with plots, plan.json, and a values file for each region.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--curves", is_flag=True, is_eager=True, expose_value=False, callback=_list,
              help="List the curves that come along, and exit.")  # fmt: skip
def command(
    traffic: Path,
    files: tuple[Path, ...],
    gpu: str,
    file: Path | None,
    precision: str | None,
    price: float | None,
    growth: float | None,
    keep_batching: bool,
    spare: bool,
    share: float,
    balancer: str,
    node_start: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Plan the GPU nodes for TRAFFIC, a YAML file with regions and their peaks.

    Finds the batching that serves most within the objectives of the values, by simulating Triton's queue with
    the times of a GPU's curve; sets the autoscaler; and checks the result on a simulated day, and on one
    without each of the regions. Status 1 where no plan meets the objectives.
    """
    from model_tools.plan import curves, planning
    from model_tools.plan import output as outputs
    from model_tools.plan import traffic as traffics
    from model_tools.progress import steps
    from model_tools.values import load_values

    if output:
        outputs.check_folder(output)
    values = load_values(files)
    if precision:
        values["model"] = {**values.get("model", {}), "precision": precision}
    wanted = str(values.get("model", {}).get("precision"))
    curve = curves.load_file(file, wanted) if file else curves.load(gpu, wanted)
    planned = traffics.load(traffic, price, growth)
    with steps() as step:
        step(f"simulating {curve.name}")
        pod, table = planning.size(curve, values, step.update, keep_batching, balancer)
        step("simulating days")
        plan = planning.make(planned, pod, table, values, step.update, spare, node_start, share)
    if output:
        outputs.write(plan, output)
    if as_json:
        click.echo(json.dumps(outputs.record(plan), indent=2))
        return
    outputs.show(plan)
    if output:
        click.echo(f"\n{output}/index.html, and for each region {output}/values/REGION.yaml")
