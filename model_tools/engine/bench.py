"""`model-tools engine bench`: images a second and latency of a TensorRT engine on this GPU."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import click

from model_tools.console import BadInput

_COPIES = {"without": (False,), "with": (True,), "both": (False, True)}


@click.command("bench", short_help="Images a second and latency of an engine on this GPU.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, metavar="N",
              help="May be given again.  [default: smallest, preferred and largest of the plan]")  # fmt: skip
@click.option("--instances", "counts", type=click.IntRange(1), multiple=True, default=(1, 2, 4),
              show_default=True, metavar="N",
              help="Execution contexts side by side; may be given again.")  # fmt: skip
@click.option("--copies", type=click.Choice(list(_COPIES)), default="both", show_default=True,
              help="Whether batches are copied to the GPU and answers back.")  # fmt: skip
@click.option("--method", type=click.Choice(["ahead", "trtexec"]), default="ahead", show_default=True,
              help="How launches are driven: all enqueued ahead, or one by one as trtexec does.")  # fmt: skip
@click.option("--seconds", default=2.0, show_default=True, help="Of each case, after a warm-up.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a case.")
def bench(
    engine: Path,
    batches: tuple[int, ...],
    counts: tuple[int, ...],
    copies: str,
    method: str,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure the plan ENGINE: throughput, and latency while every instance has one batch in flight.

    Launches are enqueued ahead on a stream an instance, as CUDA graphs, so that it is the GPU which is
    measured.
    """
    from model_tools.engine.description import read
    from model_tools.engine.timing import Case, batches_of, measure, profile_for
    from model_tools.engine.trt import deserialize, gpu, load

    if not engine.is_file():
        raise BadInput(f"{engine}: no such file")
    trt, device = load(), gpu()
    check_target(engine, read(engine), trt.__version__, device.name, device.capability)
    plan = deserialize(trt, engine)
    ranges = batches_of(plan, plan.get_tensor_name(0))
    sizes = batches or tuple(sorted({size for each in ranges for size in each}))
    for size in sizes:
        profile_for(ranges, size)  # refuses before anything is measured
    if not as_json:
        click.echo(f"{engine}: {device.name}, TensorRT {trt.__version__}")
        click.echo("batch  instances  copies   images/s   p50 ms   p95 ms   p99 ms")
    for size, count, copied in product(sizes, counts, _COPIES[copies]):
        case = Case(size, count, copied, method)
        speed = measure(trt, plan, case, seconds)
        if as_json:
            shown: dict[str, Any] = {"batch": size, "instances": count, "copies": copied, "method": method}
            click.echo(json.dumps(shown | speed.parts()))
        else:
            click.echo(
                f"{size:5}  {count:9}  {'with' if copied else 'without':7}  {speed.images_per_s:8,.0f}"
                f"  {speed.p50_ms:7.3f}  {speed.p95_ms:7.3f}  {speed.p99_ms:7.3f}"
            )


def check_target(
    engine: Path, described: dict[str, Any] | None, version: str, gpu: str, capability: str
) -> None:
    """Raises BadInput where the engine's description says that it is for something else than is here."""
    if described is None:
        return
    key = described["key"]
    if key["runtime"] != "tensorrt":
        raise BadInput(f"{engine}: is an engine of {key['runtime']}, and bench measures TensorRT's")
    if key["version"] != version:
        raise BadInput(
            f"{engine}: is of TensorRT {key['version']}, and here is {version}; build it here:"
            " model-tools engine build"
        )
    device = key["device"]
    if (device["gpu"], device["compute_capability"]) != (gpu, capability):
        raise BadInput(
            f"{engine}: is for {device['gpu']} (compute capability {device['compute_capability']}), and here"
            f" is {gpu} ({capability}); build it here: model-tools engine build"
        )
