"""What serving costs: Triton over gRPC against OpenVINO in a bare loop, same model and processor, same run.

    python benchmarks/serving_overhead.py                              a local Triton, started for it
    python benchmarks/serving_overhead.py --url HOST:8001 --model DIR  any server, such as a Service

Phases alternate (bare, served, served, bare, ...), so that whatever else the machine does reaches both. Each
pair of phases gives a ratio of throughputs; the report is their median and range. The client holds a fixed
number of requests of one picture in flight; Triton makes the batches. The bare loop gets whole batches from
memory and has the better of OpenVINO's two modes: one request at a time on all threads, or several streams.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from model_tools.bundle import Bundle
from model_tools.config import OPENVINO_PRECISION, ModelConfig
from model_tools.console import BadInput, CheckFailed, run
from model_tools.export import cached_resnet50
from model_tools.repository import write_repository
from model_tools.serve import LocalTriton
from model_tools.values import load_values

LOCAL_VALUES = Path(__file__).parent.parent / "values" / "local.yaml"


@click.command()
@click.option(
    "--url", default=None, metavar="HOST:PORT", help="gRPC address of a server.  [default: start a Triton]"
)
@click.option("--model", "folder", default=None, metavar="DIR", type=click.Path(path_type=Path),
              help="Model directory that is served.  [default: ResNet-50 with random weights]")  # fmt: skip
@click.option("--values", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="Values over the chart's.  [default: values/local.yaml]")  # fmt: skip
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1), help="Pairs of phases.")
@click.option(
    "--seconds", default=10.0, show_default=True, type=click.FloatRange(1), help="Length of a phase."
)
@click.option(
    "--in-flight", default=48, show_default=True, type=click.IntRange(1), help="Requests the client holds."
)
@click.option("--at-least", default=None, type=float, help="Exit with 1 if the median ratio is below.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable report on stdout.")
def command(
    url: str | None, folder: Path | None, files: tuple[Path, ...], rounds: int, seconds: float,
    in_flight: int, at_least: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare Triton's throughput with OpenVINO's in a bare loop."""
    bundle = Bundle.load(folder or cached_resnet50())
    config = ModelConfig.from_values(load_values(files or [LOCAL_VALUES])["model"])
    batch = config.batching.max_size
    with _server(url, bundle, config) as address, _client(address, config, bundle, in_flight) as served:
        mode, bare = _bare(bundle, config, batch, seconds)
        served(min(seconds, 3))  # fills the pipe, so that all batch sizes are prepared
        pairs = []
        for index in range(rounds):
            phases = [("bare", bare), ("served", served)]
            rates = {name: phase(seconds) for name, phase in (phases if index % 2 == 0 else reversed(phases))}
            pairs.append(rates | {"ratio": rates["served"] / rates["bare"]})
            print(
                f"round {index + 1}: bare {rates['bare']:.1f}, served {rates['served']:.1f} pictures/s,"
                f" ratio {pairs[-1]['ratio']:.3f}",
                file=sys.stderr,
            )
    ratios = [pair["ratio"] for pair in pairs]
    report = {
        "server": url or "local Triton",
        "precision": config.precision,
        "batch": batch,
        "in_flight": in_flight,
        "bare_mode": mode,
        "rounds": pairs,
        "bare": statistics.median(pair["bare"] for pair in pairs),
        "served": statistics.median(pair["served"] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(
            f"served/bare {report['ratio']:.3f} ({min(ratios):.3f} to {max(ratios):.3f}):"
            f" {report['served']:.1f} of {report['bare']:.1f} pictures/s, {config.precision}, batch {batch}"
        )
    if at_least is not None and statistics.median(ratios) < at_least:
        raise CheckFailed(
            f"serving keeps {statistics.median(ratios):.3f} of the throughput, less than {at_least}"
        )


@contextmanager
def _server(url: str | None, bundle: Bundle, config: ModelConfig) -> Iterator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory() as repository:
        write_repository([(bundle, config)], Path(repository))
        with LocalTriton(Path(repository)) as triton:
            yield triton.grpc


def _bare(
    bundle: Bundle, config: ModelConfig, batch: int, seconds: float
) -> tuple[str, Callable[[float], float]]:
    """OpenVINO's faster mode, and a function that runs it for some seconds and gives pictures a second."""
    import numpy as np
    import openvino

    pixels = np.resize(bundle.reference()[0], (batch, *bundle.input.shape))
    core = openvino.Core()
    model = core.read_model(bundle.model)
    # As for the server: static shapes are a liberty that it does not have.
    precision = {"INFERENCE_PRECISION_HINT": OPENVINO_PRECISION[config.precision]}

    def mode(hint: str) -> Callable[[float], float]:
        compiled = core.compile_model(model, "CPU", precision | {"PERFORMANCE_HINT": hint})
        queue = openvino.AsyncInferQueue(compiled)

        def loop(duration: float) -> float:
            start, batches = time.perf_counter(), 0
            while time.perf_counter() < start + duration:
                queue.start_async([pixels], share_inputs=True)
                batches += 1
            queue.wait_all()
            return batches * batch / (time.perf_counter() - start)

        loop(0.1)
        return loop

    modes = {hint: mode(hint) for hint in ("LATENCY", "THROUGHPUT")}
    rates = {hint: loop(min(seconds, 5)) for hint, loop in modes.items()}
    best = max(rates, key=rates.__getitem__)
    return best, modes[best]


@contextmanager
def _client(
    address: str, config: ModelConfig, bundle: Bundle, in_flight: int
) -> Iterator[Callable[[float], float]]:
    """A function that keeps requests at the server for some seconds and gives pictures a second."""
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(address)
    requests = []
    for picture in bundle.reference()[0]:
        tensor = triton.InferInput(config.input.name, (1, *picture.shape), config.input.data_type)
        tensor.set_data_from_numpy(picture[None])
        requests.append([tensor])

    def loop(duration: float) -> float:
        slots, answered, failures = threading.Semaphore(in_flight), [0], []

        def done(result: Any, error: Exception | None) -> None:
            if error:
                failures.append(error)
            answered[0] += 1  # callbacks come from one thread
            slots.release()

        start, sent = time.perf_counter(), 0
        while time.perf_counter() < start + duration and not failures:
            slots.acquire()
            client.async_infer(config.name, requests[sent % len(requests)], callback=done)
            sent += 1
        for _ in range(in_flight):
            slots.acquire()
        if failures:
            raise BadInput(f"{address}: {failures[0]}")
        return answered[0] / (time.perf_counter() - start)

    try:
        yield loop
    finally:
        client.close()


if __name__ == "__main__":
    run(command, "serving_overhead.py")
