"""Images a second of a TensorRT engine behind Triton, beside the bare engine's in the same run.

    triton.py --root TRITON --libraries FOLDER --plan FILE --output FILE [--instances ...] [--cases ...]

TRITON is laid out by pack.py: Triton from its wheel, with this project's `tensorrt` backend. Cases:

    single   single-image requests over gRPC, from several processes
    system   client batches of 64 in system shared memory
    cuda     client batches of 64 in CUDA shared memory
    message  client batches of 64 in gRPC messages

With --sample-every N one request in N is traced, as the chart has it, and `model-tools latency-exporter`
takes the traces. Each case is kept as it is measured; the same command goes on where it was stopped. What
Triton showed to Prometheus last lies beside the output as FILE.prom.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu.engines import machine
from benchmarks.gpu.record import Record
from model_tools.engine import timing, trt
from model_tools.runtime import BACKENDS, Runtime, find_libpython
from model_tools.serve import LocalTriton
from model_tools.tuning.local import processor_seconds

BATCH = 64
KEY = ("case", "instances", "processes", "concurrency", "note")
# processes, and requests in flight of each
LOADS = {
    "single": ((4, 64), (8, 32), (8, 64)),
    "system": ((2, 2), (2, 4)),
    "cuda": ((2, 2), (2, 4)),
    "message": ((4, 2),),
}
# As the chart's templates/triton/_latency.tpl.
TRACES = "127.0.0.1:4318"
TRACING = (
    "mode=opentelemetry", "level=TIMESTAMPS", f"opentelemetry,url=http://{TRACES}/v1/traces",
    "opentelemetry,bsp_schedule_delay=1000",
)  # fmt: skip
POOL = 256 << 20  # bytes that Triton shares with each of its Python processes
CONFIG = """name: "resnet50"
backend: "tensorrt"
default_model_filename: "model.plan"
max_batch_size: {batch}
input {{ name: "image" data_type: TYPE_UINT8 dims: [224, 224, 3] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [1000] }}
instance_group {{ count: {instances} kind: {kind} }}
dynamic_batching {{ preferred_batch_size: {batch} max_queue_delay_microseconds: {delay} }}
parameters {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value {{ string_value: "no" }} }}
"""


@contextmanager
def serving(arguments: argparse.Namespace, instances: int, log: Path, gpu: int = 0) -> Iterator[LocalTriton]:
    """A Triton with the plan in as many instances on one GPU; what it says goes to `log`."""
    shutil.copy(
        BACKENDS / "tensorrt" / "model.py", arguments.root / "backends" / "tensorrt"
    )  # this checkout's
    libpython = find_libpython()
    folders = [arguments.root / "lib", arguments.libraries, libpython.folder, *arguments.library_path]
    environment = {name: os.environ[name] for name in ("HOME", "LANG", *arguments.keep) if name in os.environ}
    environment["LD_LIBRARY_PATH"] = ":".join(str(folder) for folder in folders if str(folder))
    environment |= libpython.environment()
    # One GPU of those that this process sees: instances would be made on each that Triton sees.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    with tempfile.TemporaryDirectory() as folder, log.open("a") as lines:
        model = Path(folder) / "resnet50"
        (model / "1").mkdir(parents=True)
        shutil.copyfile(arguments.plan, model / "1" / "model.plan")
        text = CONFIG.format(batch=BATCH, instances=instances, kind=arguments.kind, delay=arguments.delay)
        (model / "config.pbtxt").write_text(text)

        def say(line: str) -> None:
            lines.write(line + "\n")
            lines.flush()

        options = [f"--backend-config=python,shm-default-byte-size={POOL}", *arguments.option]
        if arguments.sample_every:
            traced = (f"rate={arguments.sample_every}", *TRACING)
            options += [f"--trace-config={setting}" for setting in traced]
        with exporter(arguments.sample_every), LocalTriton(
            Path(folder), log=say, timeout=120, runtime=Runtime(arguments.root, environment), options=options
        ) as triton:  # fmt: skip
            yield triton


@contextmanager
def exporter(sample_every: int) -> Iterator[None]:
    """What takes the traces, while the block runs; its own metrics are printed at the end."""
    if not sample_every:
        yield
        return
    command = [
        sys.executable, "-m", "model_tools", "latency-exporter", "--host=127.0.0.1", "--port=8004",
        f"--listen={TRACES}", f"--sample-every={sample_every}",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        yield
        for line in shown("127.0.0.1:8004"):
            if "_traces_total" in line or ('phase="request"' in line and "_count" in line):
                print(line, flush=True)
    finally:
        process.terminate()
        process.wait(10)


def load(urls: list[str], case: str, processes: int, concurrency: int, seconds: float) -> dict[str, Any]:
    """Images a second and latency, of all processes together; each spreads its requests over the Tritons."""
    batch, memory = (1, "message") if case == "single" else (BATCH, case)
    start = time.time() + (8 if memory == "cuda" else 5) + processes / 8  # they need to start and to warm up
    command = [
        sys.executable, str(Path(__file__).with_name("load.py")), *(f"--url={url}" for url in urls),
        "--batch", str(batch), "--memory", memory, "--concurrency", str(concurrency),
        "--start", str(start), "--seconds", str(seconds),
    ]  # fmt: skip
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    said = []
    try:
        for process in running:
            out, _ = process.communicate(timeout=seconds + 60)
            if process.returncode:
                raise RuntimeError(f"a load process ended with status {process.returncode}")
            said.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in running:
            process.kill()
    latencies = [value for each in said for value in each["latencies"]]
    if not latencies:
        raise RuntimeError("no answer came within the seconds that count")
    return {
        "images_per_s": round(len(latencies) * batch / seconds),
        "requests_per_s": round(len(latencies) / seconds),
    } | {
        f"p{round(share * 100)}_ms": round(timing.percentile(latencies, share), 3)
        for share in (0.5, 0.95, 0.99)
    }


def shown(address: str) -> list[str]:
    """The lines of a process's metrics."""
    for tries_left in reversed(range(50)):  # Triton is ready a moment before it listens here
        try:
            with urlopen(f"http://{address}/metrics", timeout=10) as answer:
                return str(answer.read().decode()).splitlines()
        except URLError:
            if not tries_left:
                raise
            time.sleep(0.1)
    raise AssertionError


def counters(triton: LocalTriton) -> dict[str, float]:
    """Of Triton's metrics: what the model did, and what the GPU and Triton's processes took so far."""
    lines = shown(triton.metrics)
    found: dict[str, float] = {}
    for line in lines:
        name = line.partition("{")[0]
        if name in (
            "nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count",
            "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
            "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us",
        ):  # fmt: skip
            found[name] = found.get(name, 0.0) + float(line.split()[-1])
    found["cpu_s"] = processor_seconds(triton.pid)
    return found


def where_time_goes(before: dict[str, float], after: dict[str, float], took: float) -> dict[str, float]:
    """Means over the load and its warm-up: images a batch, ms of a request by stage, cores of Triton."""
    grew = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in after}
    requests = grew.get("nv_inference_request_success", 0.0) or 1.0
    stages = {
        f"{stage}_ms": round(grew.get(f"nv_inference_{stage}_duration_us", 0.0) / requests / 1000, 3)
        for stage in ("queue", "compute_input", "compute_infer", "compute_output")
    }
    executions = grew.get("nv_inference_exec_count", 0.0) or 1.0
    return {
        "images_per_batch": round(grew.get("nv_inference_count", 0.0) / executions, 1),
        **stages,
        "triton_cores": round(grew["cpu_s"] / took, 1),
    }


def measure(
    triton: LocalTriton, case: str, processes: int, concurrency: int, seconds: float
) -> dict[str, Any]:
    began, before = time.monotonic(), counters(triton)
    result = load([triton.grpc], case, processes, concurrency, seconds)
    return result | where_time_goes(before, counters(triton), time.monotonic() - began)


def bare(record: Record, plan: Path, seconds: float) -> float:
    """Of the engine alone at the clients' batch size, with copies: the best of 1 and 2 instances."""
    module = trt.load()
    engine = trt.deserialize(module, plan)
    best = 0.0
    for method in timing.METHODS:
        for count in (1, 2):
            case = timing.Case(BATCH, count, transfers=True, method=method)
            got = record.add(
                lambda case=case: timing.measure(module, engine, case, seconds).parts(),
                case="bare", instances=count, processes=0, concurrency=0, note=method,
            )  # fmt: skip
            best = max(best, got["images_per_s"] if got else 0.0)
    return best


def line(case: dict[str, Any], share: float) -> str:
    """A case for people; `share` is of the bare engine's rate."""
    load = f"{case['processes']}x{case['concurrency']:<3}"
    stages = " ".join(
        f"{stage.rpartition('_')[2]} {case[f'{stage}_ms']:.2f}"
        for stage in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    return (
        f"{case['case']:8} {case['note']:12} {case['instances']} inst {load} {case['images_per_s']:8,} img/s"
        f" {share:5.0%} {case['requests_per_s']:7,} req/s"
        f"  p50 {case['p50_ms']:7.2f} p99 {case['p99_ms']:7.2f} ms"
        f"  batch {case['images_per_batch']:5}  {stages} ms  {case['triton_cores']} cores"
    )


def options(parser: argparse.ArgumentParser) -> None:
    """Those that `serving` reads, but for sample_every, and of a measurement."""

    def path(text: str) -> Path:
        return Path(text).resolve()

    for name in ("root", "libraries", "plan", "output"):
        parser.add_argument(f"--{name}", type=path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument(
        "--delay", type=int, default=2000, help="microseconds that a request may wait for others"
    )
    parser.add_argument("--kind", default="KIND_GPU")
    parser.add_argument("--option", action="append", default=[], help="one more of Triton's own")
    parser.add_argument("--library-path", action="append", default=[], help="one more folder of libraries")
    parser.add_argument("--keep", action="append", default=[], help="environment variable that Triton gets")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser)
    parser.add_argument("--instances", nargs="+", type=int, default=(1, 2, 4))
    parser.add_argument("--cases", nargs="+", choices=LOADS, default=("single", "system", "cuda"))
    parser.add_argument("--loads", type=int, default=max(map(len, LOADS.values())), metavar="N",
                        help="only the N heaviest of each case")  # fmt: skip
    parser.add_argument("--note", default="", help="kept with the cases, to tell variants apart")
    parser.add_argument("--sample-every", type=int, default=0, metavar="N", help="trace one request in N")
    arguments = parser.parse_args()

    about = {"command": " ".join(["benchmarks/gpu/triton.py", *sys.argv[1:]]), **machine()}
    record = Record(arguments.output, about, KEY)
    engine = bare(record, arguments.plan, arguments.seconds / 2)
    for instances in arguments.instances:
        wanted = [
            {"case": case, "instances": instances, "processes": processes, "concurrency": concurrency,
             "note": arguments.note}
            for case in arguments.cases
            for processes, concurrency in LOADS[case][-arguments.loads :]
        ]  # fmt: skip
        if all(record.has(**key) for key in wanted):
            continue
        try:
            with serving(arguments, instances, arguments.output.with_suffix(".log")) as triton:
                for key in wanted:
                    record.add(
                        lambda key=key, triton=triton: measure(
                            triton, key["case"], key["processes"], key["concurrency"], arguments.seconds
                        ),
                        **key,
                    )
                text = "\n".join(shown(triton.metrics))
                arguments.output.with_suffix(".prom").write_text(f"{text}\n")
        except Exception as error:  # one that does not start must not keep the others from it
            print(f"FAILED with {instances} instances: {error}", flush=True)
    print(f"bare engine, batch {BATCH}, copies included: {engine:,.0f} images/s")
    for case in record.cases:
        if "error" in case:
            print("FAILED", case)
        elif case["case"] != "bare":
            share = case["images_per_s"] / engine if engine else 0.0
            print(line(case, share))


if __name__ == "__main__":
    main()
