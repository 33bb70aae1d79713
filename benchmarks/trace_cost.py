"""What tracing costs: Triton's throughput with the latency exporter against none, same processors, same run.

    python benchmarks/trace_cost.py

Three Tritons run at the same time: one without tracing, one that traces every 7th request, one that traces
each; the last two have an exporter. One at a time has load. Phases alternate, so that whatever else happens
on the machine reaches all, and each round gives ratios of throughputs; the report is their median and range.
The model computes next to nothing, so most of a request is what tracing adds to: a real model's ratios are
nearer to 1.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import requests

from model_tools.bundle import Bundle
from model_tools.config import ModelConfig
from model_tools.console import BadInput, CheckFailed, run
from model_tools.repository import write_repository
from model_tools.serve import LocalTriton
from model_tools.values import load_values, merge
from tests.integration.colours import MODEL, PICTURE, write_model

LOCAL_VALUES = Path(__file__).parent.parent / "values" / "local.yaml"


@click.command()
@click.option(
    "--every", default=7, show_default=True, type=click.IntRange(2), help="The chart's sampleEvery."
)
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(1), help="Of three phases each.")
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(1), help="Length of a phase."
)
@click.option("--in-flight", default=48, show_default=True, type=click.IntRange(1), help="Requests at once.")
@click.option("--at-least", default=None, type=float, help="Exit with 1 if the sampled median is below.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable report on stdout.")
def command(
    every: int, rounds: int, seconds: float, in_flight: int, at_least: float | None, as_json: bool
) -> None:
    """Compare Triton's throughput with and without tracing."""
    rates = {"off": 0, f"every {every}th": every, "every": 1}
    ratios: dict[str, list[float]] = {name: [] for name, rate in rates.items() if rate}
    throughputs: dict[str, list[float]] = {name: [] for name in rates}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        repository = _repository(Path(folder))
        exporters: dict[str, subprocess.Popen[bytes]] = {}
        servers: dict[str, int] = {}
        loads = {}
        for name, rate in rates.items():
            options: list[str] = []
            if rate:
                exporters[name], options = stack.enter_context(_exporter(rate))
            triton = stack.enter_context(LocalTriton(repository, options=options))
            servers[name] = triton.pid
            loads[name] = stack.enter_context(_client(triton.grpc, in_flight))
            loads[name](1)  # fills the pipe
        before = {name: _processor_seconds(process.pid) for name, process in exporters.items()}
        served_before = {name: _processor_seconds(pid) for name, pid in servers.items()}
        for index in range(rounds):
            names = list(rates) if index % 2 == 0 else list(reversed(rates))
            measured = {name: loads[name](seconds) for name in names}
            for name, value in measured.items():
                throughputs[name].append(value)
            for name, found in ratios.items():
                found.append(measured[name] / measured["off"])
            shown = ", ".join(f"{name} {measured[name]:.0f}/s" for name in rates)
            print(f"round {index + 1}: {shown}", file=sys.stderr)
        time.sleep(2)  # the last traces come within one
        processor = {
            name: _processor_seconds(process.pid) - before[name] for name, process in exporters.items()
        }
        served = {name: _processor_seconds(pid) - served_before[name] for name, pid in servers.items()}
    answered = {name: sum(found) * seconds for name, found in throughputs.items()}
    report = {
        "rounds": rounds,
        "seconds": seconds,
        "in_flight": in_flight,
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "throughput": {name: statistics.median(found) for name, found in throughputs.items()},
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "ratio_range": {name: [min(found), max(found)] for name, found in ratios.items()},
        "triton_seconds_per_1000_requests": {
            name: spent / answered[name] * 1000 for name, spent in served.items()
        },
        "exporter_seconds_per_1000_traces": {
            name: spent / (answered[name] / rates[name]) * 1000 for name, spent in processor.items()
        },
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for name, found in ratios.items():
            spent = report["exporter_seconds_per_1000_traces"][name]  # type: ignore[index]
            click.echo(
                f"{name}/off {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f});"
                f" the exporter took {spent:.3f} s of a processor for 1000 traces"
            )
        for name, spent in served.items():
            click.echo(
                f"{name}: Triton's own process took {spent / answered[name] * 1000:.3f} s for 1000 requests"
            )
    sampled = statistics.median(ratios[f"every {every}th"])
    if at_least is not None and sampled < at_least:
        raise CheckFailed(f"tracing keeps {sampled:.3f} of the throughput, less than {at_least}")


def _repository(folder: Path) -> Path:
    tensors = {
        "name": MODEL,
        "input": {"name": "image", "dataType": "UINT8", "shape": list(PICTURE)},
        "output": {"name": "probabilities", "dataType": "FP32", "shape": [10]},
    }
    values = merge(load_values([LOCAL_VALUES])["model"], tensors)
    repository = folder / "repository"
    repository.mkdir()
    served = (Bundle.load(write_model(folder / "model")), ModelConfig.from_values(values))
    write_repository([served], repository)
    return repository


@contextmanager
def _exporter(rate: int) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """An exporter, ready, and Triton's options for it, those of the chart."""
    traces, port = _free_port(), _free_port()
    command = [
        sys.executable, "-m", "model_tools", "latency-exporter", f"--listen=127.0.0.1:{traces}",
        f"--port={port}", f"--sample-every={rate}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not _answers(f"http://127.0.0.1:{port}/metrics"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BadInput("the latency exporter does not start")
            time.sleep(0.1)
        yield (
            process,
            [
                "--trace-config=mode=opentelemetry",
                "--trace-config=level=TIMESTAMPS",
                f"--trace-config=rate={rate}",
                f"--trace-config=opentelemetry,url=http://127.0.0.1:{traces}/v1/traces",
                "--trace-config=opentelemetry,bsp_schedule_delay=1000",
            ],
        )
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).ok
    except requests.RequestException:
        return False


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _processor_seconds(pid: int) -> float:
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _client(address: str, in_flight: int) -> Iterator[Callable[[float], float]]:
    """A function that keeps requests at the server for some seconds and gives those answered a second."""
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("image", (1, *PICTURE), "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, *PICTURE), np.uint8))

    def loop(duration: float) -> float:
        slots, failures = threading.Semaphore(in_flight), []

        def done(result: Any, error: Exception | None) -> None:
            if error:
                failures.append(error)
            slots.release()

        start, sent = time.perf_counter(), 0
        while time.perf_counter() < start + duration and not failures:
            slots.acquire()
            client.async_infer(MODEL, [tensor], callback=done)
            sent += 1
        for _ in range(in_flight):
            slots.acquire()
        if failures:
            raise BadInput(f"{address}: {failures[0]}")
        return sent / (time.perf_counter() - start)

    try:
        yield loop
    finally:
        client.close()


if __name__ == "__main__":
    run(command, "trace_cost.py")
