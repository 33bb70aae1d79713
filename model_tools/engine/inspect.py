"""`model-tools engine inspect`: what an engine is, for what it was built, and what its layers compute in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from model_tools.console import BadInput


@click.command("inspect", short_help="What an engine is and what its layers compute in.")
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--layers", "with_layers", is_flag=True, help="List every layer with its types.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(engine: Path, with_layers: bool, as_json: bool) -> None:
    """Say what ENGINE is, by the description that `engine build` wrote beside it.

    A plan that has none is read with TensorRT, which needs the GPU that it is for.
    """
    found = examine(engine)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in lines(found, with_layers):
        click.echo(line)


def examine(engine: Path) -> dict[str, Any]:
    """An engine's record. Raises BadInput for a file that is missing or none, or that nothing describes."""
    from model_tools.engine.description import read

    if not engine.is_file():
        raise BadInput(f"{engine}: no such file")
    if engine.stat().st_size == 0:
        raise BadInput(f"{engine}: is empty")
    found = read(engine)
    if found is not None:
        return found
    if engine.suffix != ".plan":
        raise BadInput(f"{engine}: has no {engine.name}.json beside it, which `engine build` writes")
    from model_tools.bundle import digest
    from model_tools.engine.inspector import describe
    from model_tools.engine.trt import deserialize, gpu, load

    trt, device = load(), gpu()
    plan = deserialize(trt, engine)
    key = {
        "runtime": "tensorrt",
        "version": trt.__version__,
        "device": {"gpu": device.name, "compute_capability": device.capability},
    }
    size = engine.stat().st_size
    return {"file": engine.name, "key": key, "sha256": digest(engine), "size": size,
            "description": describe(trt, plan)}  # fmt: skip


def lines(found: dict[str, Any], with_layers: bool = False) -> list[str]:
    """The record for people."""
    key, description = found["key"], found.get("description", {})
    made = [f"{key['runtime']} {key['version'].split('-')[0]}", str(key.get("precision", ""))]
    made += [f"{found['size'] / 2**20:.1f} MiB"]
    made += [f"built in {found['seconds']:.1f} s"] if "seconds" in found else []
    said = [f"{found['file']}: {', '.join(part for part in made if part)}"]
    device = key.get("device", {})
    if "gpu" in device:
        said.append(f"for     {device['gpu']}, compute capability {device['compute_capability']}")
    if "model" in key:
        said.append(f"model   sha256:{key['model']}")
    if key.get("calibration"):
        said.append(f"scales  sha256:{key['calibration']}")
    for kind in ("inputs", "outputs"):
        for name, tensor in description.get(kind, {}).items():
            said.append(f"{kind[:-1]:7} {name} {tensor['data_type']} {tensor['shape']}")
    for index, profile in enumerate(description.get("profiles", [])):
        for name, shapes in profile.items():
            said.append(
                f"profile {index}: {name} batches {shapes['min'][0]} to {shapes['max'][0]},"
                f" best at {shapes['opt'][0]}"
            )
    if counts := description.get("precisions"):
        said.append("layers  " + ", ".join(f"{count} read {name}" for name, count in counts.items()))
    for layer in description.get("layers", []) if with_layers else []:
        types = f"{'+'.join(layer['inputs']) or '-'} -> {'+'.join(layer['outputs']) or '-'}"
        said.append(f"  {types:16} {layer['kind']:16} {layer['name']}")
    return said
