"""Pictures a second of TensorRT engines on this GPU, by precision, batch size and instances.

Each instance is an execution context with its own stream, whose work is a CUDA graph: input to the device
from pinned memory (where a case has transfers), the engine, output back. Instances run side by side, with so
many launches in flight that the GPU never waits for Python. A case runs for --seconds after a warm-up; its
rate is launches times batch size over the time from the first launch to the end of the last. Latency is from
CUDA events around each launch of a second, quieter pass with one launch in flight an instance.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "bf16", "fp16")
BATCHES = (1, 16, 64, 256)
INSTANCES = (1, 2, 4)


def checked(answer: tuple[Any, ...]) -> Any:
    """The result of a call of cuda.bindings. Raises RuntimeError with the name of its error."""
    status, *values = answer
    if int(status) != 0:
        raise RuntimeError(f"CUDA: {status}")
    return values[0] if len(values) == 1 else values


@dataclass
class Instance:
    """An execution context with its buffers, stream and graph."""

    context: Any
    stream: Any
    graph: Any
    start: Any
    end: Any

    @classmethod
    def make(cls, trt: Any, engine: Any, batch: int, transfers: bool) -> Instance:
        from cuda.bindings import runtime as cuda

        context = engine.create_execution_context()
        stream = checked(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
        copies: list[tuple[Any, Any, int, Any]] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            given = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            shape = (batch, *tuple(engine.get_tensor_shape(name))[1:])
            if given:
                context.set_input_shape(name, shape)
            count = 1
            for size in shape:
                count *= size
            size = count * engine.get_tensor_dtype(name).itemsize
            device = checked(cuda.cudaMalloc(size))
            host = checked(cuda.cudaMallocHost(size))
            _fill(host, size)
            checked(cuda.cudaMemcpy(device, host, size, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice))
            context.set_tensor_address(name, int(device))
            kinds = cuda.cudaMemcpyKind
            if given:
                copies.append((device, host, size, kinds.cudaMemcpyHostToDevice))
            else:
                copies.append((host, device, size, kinds.cudaMemcpyDeviceToHost))

        def work() -> None:
            for to, source, size, kind in copies if transfers else ():
                if kind == cuda.cudaMemcpyKind.cudaMemcpyHostToDevice:
                    checked(cuda.cudaMemcpyAsync(to, source, size, kind, stream))
            if not context.execute_async_v3(int(stream)):
                raise RuntimeError("TensorRT refused to run the engine")
            for to, source, size, kind in copies if transfers else ():
                if kind == cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost:
                    checked(cuda.cudaMemcpyAsync(to, source, size, kind, stream))

        work()  # what TensorRT allocates at its first run can't be captured
        checked(cuda.cudaStreamSynchronize(stream))
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cuda.cudaStreamBeginCapture(stream, mode))
        work()
        captured = checked(cuda.cudaStreamEndCapture(stream))
        graph = checked(cuda.cudaGraphInstantiate(captured, 0))
        events = [checked(cuda.cudaEventCreate()) for _ in range(2)]
        return cls(context, stream, graph, *events)


def _fill(host: Any, size: int) -> None:
    """Random bytes: zeros run faster than pictures do."""
    import ctypes

    import numpy as np

    pixels = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    ctypes.memmove(int(host), pixels.ctypes.data, size)


def rate(instances: list[Instance], batch: int, seconds: float) -> float:
    """Pictures a second."""
    from cuda.bindings import runtime as cuda

    def launch(rounds: int) -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            for instance in instances:
                checked(cuda.cudaGraphLaunch(instance.graph, instance.stream))
        checked(cuda.cudaDeviceSynchronize())
        return time.perf_counter() - began

    rounds = 10
    while (took := launch(rounds)) < seconds / 4:
        rounds *= 2
    rounds = max(1, round(rounds * seconds / took))
    return rounds * len(instances) * batch / launch(rounds)


def latency(instances: list[Instance], launches: int = 200) -> dict[str, float]:
    """Milliseconds of one launch while every instance has one in flight."""
    import numpy as np
    from cuda.bindings import runtime as cuda

    taken: list[float] = []
    for _ in range(launches):
        for each in instances:
            checked(cuda.cudaEventRecord(each.start, each.stream))
            checked(cuda.cudaGraphLaunch(each.graph, each.stream))
            checked(cuda.cudaEventRecord(each.end, each.stream))
        for each in instances:
            checked(cuda.cudaEventSynchronize(each.end))
            taken.append(checked(cuda.cudaEventElapsedTime(each.start, each.end)))
    return {f"p{q}_ms": round(float(np.percentile(taken, q)), 3) for q in (50, 95, 99)}


def machine(trt: Any) -> dict[str, Any]:
    from cuda.bindings import runtime as cuda

    properties = checked(cuda.cudaGetDeviceProperties(0))
    return {
        "gpu": properties.name.decode(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": checked(cuda.cudaDriverGetVersion()),
        "tensorrt": trt.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()

    from model_tools.bundle import MODEL
    from model_tools.engine.builders import builder, tensorrt
    from model_tools.engine.key import Limits

    trt = tensorrt.load()
    command = (
        f"benchmarks/gpu/engines.py --batches {' '.join(map(str, arguments.batches))}"
        f" --precisions {' '.join(arguments.precisions)} --seconds {arguments.seconds:g}"
    )
    record: dict[str, Any] = {"command": command, **machine(trt), "cases": []}
    for batch in arguments.batches:
        for precision in arguments.precisions:
            with tempfile.TemporaryDirectory() as scratch:
                plan = Path(scratch) / "model.plan"
                began = time.monotonic()
                builder("tensorrt").build(arguments.model / MODEL, Limits(precision, batch, batch), plan)
                built = time.monotonic() - began
                runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
                engine = runtime.deserialize_cuda_engine(plan.read_bytes())
            for transfers in (False, True):
                made: list[Instance] = []
                for count in INSTANCES:
                    while len(made) < count:
                        made.append(Instance.make(trt, engine, batch, transfers))
                    case = {
                        "precision": precision, "batch": batch, "instances": count, "transfers": transfers,
                        "build_s": round(built, 1),
                        "images_per_s": round(rate(made, batch, arguments.seconds)),
                        **latency(made),
                    }  # fmt: skip
                    record["cases"].append(case)
                    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
                    print(case, flush=True)


if __name__ == "__main__":
    main()
