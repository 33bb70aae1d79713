"""Images a second of TensorRT engines on this GPU: by precision, batch size, instances, copies and method.

    engines.py --models FOLDER --output FILE [--rungs ...] [--batches ...] [--instances ...] [--layers]

FOLDER has fp32/, fp16/ and int8/ with a model.onnx each, as `model-tools quantize` writes them. Rungs:

    fp32, tf32      fp32/, with TF32 off and on
    fp16            fp16/, as it is typed
    fp16-flags      fp32/, with TensorRT's FP16 flag
    int8, int8-*    the folder of that name, with quantize nodes
    int8-implicit   fp32-simplified/, or fp32/, with the ranges of int8-calibration.json: INT8 as TensorRT
                    did it before explicit quantization

Each engine is tuned for one batch size, but those of fp32 and tf32, which are tuned for 64 and measured with
all. Cases are kept as they are measured; the same command goes on where it was stopped. With --layers, what
each engine's layers compute in and how long each takes is kept as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu.record import Record
from model_tools.bundle import MODEL
from model_tools.engine import timing, trt
from model_tools.engine.builders import tensorrt
from model_tools.engine.cuda import Cuda
from model_tools.engine.inspector import is_movement
from model_tools.engine.key import Limits

RUNGS = ("fp32", "tf32", "fp16", "int8", "int8-implicit")
BATCHES = (1, 16, 64, 256)
INSTANCES = (1, 2, 4)
RANGES = "int8-calibration.json"
SHARED = 64  # batch size of the engines that serve for all
KEY = ("rung", "batch", "instances", "copies", "method")


class Implicit(tensorrt.Builder):
    """INT8 by ranges of tensors, which TensorRT 10 still knows: what quantize nodes are compared with."""

    def __init__(self, ranges: Mapping[str, float]) -> None:
        self._ranges = ranges

    def calibrated(self, model: Path) -> bool:
        return True

    def calibrate(self, trt: Any, network: Any, config: Any, model: Path, limits: Limits) -> Any:
        tensors = [network.get_input(index) for index in range(network.num_inputs)]
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            tensors += [layer.get_output(number) for number in range(layer.num_outputs)]
        guessed = 0
        for tensor in tensors:
            if tensor.dtype in (trt.DataType.FLOAT, trt.DataType.HALF):
                most = self._ranges.get(tensor.name)
                guessed += most is None
                tensor.set_dynamic_range(-(most or 8.0), most or 8.0)
        print(f"implicit INT8: {len(tensors)} tensors, {guessed} of unknown range", flush=True)
        return None


def ranges(file: Path) -> dict[str, float]:
    """Largest magnitude by tensor, of a file that holds it, or [least, most], for each."""
    content = json.loads(file.read_text())
    for name in ("ranges", "tensors", "activations"):
        if isinstance(content.get(name), dict):
            content = content[name]
    found = {}
    for name, value in content.items():
        if isinstance(value, dict):
            value = [number for number in value.values() if isinstance(number, int | float)]
        numbers = value if isinstance(value, list) else [value]
        if numbers and all(isinstance(number, int | float) for number in numbers):
            found[name] = max(abs(float(number)) for number in numbers) or 1.0
    return found


def source(models: Path, rung: str) -> tuple[Path, str]:
    """Folder and precision of a rung."""
    if rung == "int8-implicit":
        simplified = models / "fp32-simplified"  # the graph that int8 is made of, less its quantize nodes
        return (simplified if simplified.is_dir() else models / "fp32"), "int8"
    if rung in ("fp32", "tf32", "fp16-flags"):
        return models / "fp32", "fp16" if rung == "fp16-flags" else rung
    return models / rung, rung.partition("-")[0]


class Engines:
    """Builds a rung's engine for a batch size, once on this machine: plans are kept in `folder`."""

    def __init__(self, models: Path, folder: Path, level: int | None, int8_level: int | None) -> None:
        self._models, self._folder = models, folder
        self._level, self._int8_level = level, int8_level
        self._trt = trt.load()

    def get(self, rung: str, batch: int) -> tuple[Any, dict[str, Any]]:
        """The engine, and what is known of it: build_s, tuned_for, precisions, layers."""
        shared = rung in ("fp32", "tf32")
        limits = Limits(
            source(self._models, rung)[1],
            max(BATCHES) if shared else batch,
            (SHARED if shared else batch,),
            self._int8_level if rung.startswith("int8") else self._level,
        )
        plan = self._folder / f"{rung}-{limits.maximum}.plan"
        about = plan.with_suffix(".json")
        if not about.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            folder, _ = source(self._models, rung)
            builder = (
                Implicit(ranges(self._models / RANGES)) if rung == "int8-implicit" else tensorrt.Builder()
            )
            began = time.monotonic()
            described = builder.build(folder / MODEL, limits, plan, self._folder)
            described |= {"build_s": round(time.monotonic() - began, 1), "tuned_for": limits.preferred[0]}
            described["level"] = limits.level
            about.write_text(json.dumps(described))
            print(
                f"{rung}, batch {batch}: built in {described['build_s']} s, {described['precisions']}",
                flush=True,
            )
        return trt.deserialize(self._trt, plan), json.loads(about.read_text())


def machine() -> dict[str, Any]:
    cuda = Cuda()
    return {
        "gpu": cuda.device.name,
        "compute_capability": cuda.device.capability,
        "cuda_of_driver": cuda.driver(),
        "driver": driver(),
        "tensorrt": trt.load().__version__,
        "python": platform.python_version(),
    }


def driver() -> str:
    """Version of the driver, as its file in /proc has it."""
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text().split() if file.is_file() else []
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), "")


def summary(record: Record) -> None:
    """Images a second by rung and batch size, one line a number of instances and copies."""
    cases = [case for case in record.cases if "error" not in case and case["instances"]]
    rungs = list(dict.fromkeys(case["rung"] for case in cases))
    groups = sorted({(case["batch"], case["instances"], case["copies"], case["method"]) for case in cases})
    print("batch inst copies method  " + "".join(f"{rung:>15}" for rung in rungs))
    for group in groups:
        line = "{:5} {:4} {:6} {:8}".format(group[0], group[1], "with" if group[2] else "none", group[3])
        for rung in rungs:
            found = [
                case["images_per_s"]
                for case in cases
                if (case["rung"], case["batch"], case["instances"], case["copies"], case["method"])
                == (rung, *group)
            ]
            line += f"{found[0]:15,.0f}" if found else f"{'':15}"
        print(line)
    for case in record.cases:
        if "error" in case:
            print("FAILED", case)
    sys.stdout.flush()


def explain(engine: Any, described: dict[str, Any], batch: int) -> dict[str, Any]:
    """How long each layer takes, in the order of the engine, and what the time goes to."""
    times = timing.layer_times(trt.load(), engine, batch)
    layers = [{**layer, "ms": round(times.get(layer["name"], 0.0), 4)} for layer in described["layers"]]
    by_type: dict[str, float] = {}
    for layer in layers:
        kind = "movement" if is_movement(layer) else "+".join(layer["inputs"][:1]) or "?"
        by_type[kind] = by_type.get(kind, 0.0) + layer["ms"]
    slowest = sorted(layers, key=lambda layer: -layer["ms"])[:8]
    print(f"  layers {len(layers)}, ms by type { ({name: round(ms, 3) for name, ms in by_type.items()}) }")
    for layer in slowest:
        types = f"{'+'.join(layer['inputs'])}->{'+'.join(layer['outputs'])}"
        print(f"    {layer['ms']:.4f} ms  {types:22} {layer['kind']:14} {layer['name'][:90]}")
    return {"ms_by_type": {name: round(ms, 4) for name, ms in by_type.items()}, "layers": layers}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--plans", type=Path, default=Path("build/plans"), help="where engines are kept")
    parser.add_argument("--rungs", nargs="+", default=RUNGS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--instances", nargs="+", type=int, default=INSTANCES)
    parser.add_argument("--copies", nargs="+", choices=("with", "without"), default=("without", "with"))
    parser.add_argument("--methods", nargs="+", choices=timing.METHODS, default=("ahead",))
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--level", type=int, help="builder level; default TensorRT's")
    parser.add_argument("--int8-level", type=int, help="of the rungs int8*; default TensorRT's")
    parser.add_argument("--layers", action="store_true", help="keep each engine's layers with their times")
    arguments = parser.parse_args()

    about = {"command": " ".join(["benchmarks/gpu/engines.py", *sys.argv[1:]]), **machine()}
    record = Record(arguments.output, about, KEY)
    engines = Engines(arguments.models, arguments.plans, arguments.level, arguments.int8_level)
    for batch, rung in product(arguments.batches, arguments.rungs):
        wanted = [
            {"rung": rung, "batch": batch, "instances": count, "copies": copies == "with", "method": method}
            for method, copies, count in product(arguments.methods, arguments.copies, arguments.instances)
        ]
        layers = {"rung": rung, "batch": batch, "instances": 0, "copies": False, "method": "layers"}
        if all(record.has(**key) for key in wanted) and (not arguments.layers or record.has(**layers)):
            continue
        got = made(record, engines, rung, batch)
        if got is None:
            continue
        engine, described = got
        built = {name: described[name] for name in ("build_s", "tuned_for", "level", "typed")}
        for key in wanted:
            case = timing.Case(batch, key["instances"], key["copies"], key["method"])
            record.add(
                lambda case=case, engine=engine, built=built: {
                    **timing.measure(trt.load(), engine, case, arguments.seconds).parts(), **built,
                },
                **key,
            )  # fmt: skip
        if arguments.layers:
            record.add(
                lambda engine=engine, described=described, batch=batch: {
                    "images_per_s": 0, "precisions": described["precisions"],
                    **explain(engine, described, batch),
                },
                **layers,
            )  # fmt: skip
        del engine, got
    summary(record)


def made(record: Record, engines: Engines, rung: str, batch: int) -> tuple[Any, dict[str, Any]] | None:
    """The engine, or None where it can't be made, which the record then says."""
    kept: list[tuple[Any, dict[str, Any]]] = []

    def build() -> dict[str, Any]:
        kept.append(engines.get(rung, batch))
        return {"images_per_s": 0, "build_s": kept[0][1]["build_s"], "precisions": kept[0][1]["precisions"]}

    key = {"rung": rung, "batch": batch, "instances": 0, "copies": False, "method": "build"}
    if record.add(build, **key) is None:
        return None
    return kept[0] if kept else engines.get(rung, batch)


if __name__ == "__main__":
    main()
