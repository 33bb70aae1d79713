"""The load test against ghz, an independent load generator, on one local Triton in one run.

    python benchmarks/loadtest_crosscheck.py        # needs Go

Phases alternate (ours, ghz, ghz, ours, ...), so that whatever else the machine does reaches both. Both send
the same serialised request over as many connections. Two loads: `open`, a constant rate in which neither
waits for answers (ghz --async --rps), and `closed`, so many requests in flight. The model waits some
milliseconds to fill a batch, as served models do, so that the server and not the generators' processor time
makes the latency. On a machine that does other things too: chrt --rr 1 python ..., which goes before them.
Exit status 1: throughput differs by more than 3 %, or p99 by more than 10 %.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import loadtest_parts as parts
from benchmarks.go_tools import built
from loadtest.api import LocustApi
from loadtest.clients import GrpcClient
from loadtest.payloads import ModelInterface
from loadtest.run import Settings
from model_tools.config import ModelConfig
from model_tools.console import CheckFailed, run
from model_tools.serve import LocalTriton
from model_tools.values import load_values, merge

LOCAL_VALUES = Path(__file__).parent.parent / "values" / "local.yaml"
WARM_UP = 2.0  # seconds of ghz's phases that are left out; ours warm up until they are steady
THROUGHPUT, P99 = 0.03, 0.10  # how far the medians may be apart


@click.command()
@click.option(
    "--rounds", default=4, show_default=True, type=click.IntRange(1), help="Pairs of phases a load."
)
@click.option(
    "--seconds", default=10.0, show_default=True, type=click.FloatRange(1), help="Length of a phase."
)
@click.option("--rate", default=150.0, show_default=True, help="Requests a second of the open loop.")
@click.option("--in-flight", default=8, show_default=True, help="Requests in flight of the closed loop.")
@click.option(
    "--queue-delay", default=0.03, show_default=True, help="Seconds that the model waits for a batch."
)
@click.option(
    "--load", "loads", multiple=True, type=click.Choice(["open", "closed"]), default=["open", "closed"]
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable report on stdout.")
def command(
    rounds: int, seconds: float, rate: float, in_flight: int, queue_delay: float, loads: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Compare throughput and p99 of `loadtest run` and ghz."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository(folder / "models", queue_delay)
        with (
            LocalTriton(folder / "models") as triton,
            parts.locust(triton.grpc, parts.SMALL, None, None) as api,
        ):
            ghz = Ghz(folder, triton.grpc, seconds)
            report = {
                kind: compare(kind, rounds, seconds, rate, in_flight, api, ghz) for kind in loads
            }  # fmt: skip
    apart = []
    for kind, row in report.items():
        for key, most in (("requests_per_second", THROUGHPUT), ("p99", P99)):
            if abs(row[key]["ratio"] - 1) > most:
                apart.append(f"{kind}: {key} is {row[key]['ratio']:.3f} times ghz's, beyond {most:.0%}")
    click.echo(
        json.dumps(report | {"load_average": os.getloadavg()[0]}, indent=2) if as_json else shown(report)
    )
    if apart:
        raise CheckFailed("; ".join(apart))


def repository(folder: Path, queue_delay: float) -> None:
    """A model repository of the small network of tests: 64x64 pictures, 10 classes."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["colour"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes, parts.SMALL,
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array((rng.normal(size=(3, 10)) / 50).astype(np.float32), "weights")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    values: dict[str, Any] = {
        "name": parts.SMALL,
        "input": {"name": "image", "dataType": "UINT8", "shape": [8, 8, 3]},
        "output": {"name": "probabilities", "dataType": "FP32", "shape": [10]},
        "warmup": {"data": "random"},
        "batching": {
            "maxSize": 64,
            "preferredSizes": [64],
            "maxQueueDelayMicroseconds": round(queue_delay * 1e6),
        },
    }
    config = ModelConfig.from_values(merge(load_values([LOCAL_VALUES])["model"], values))
    version = folder / parts.SMALL / str(config.version)
    version.mkdir(parents=True)
    (version / config.filename).write_bytes(model.SerializeToString())
    (folder / parts.SMALL / "config.pbtxt").write_text(config.to_text())


class Ghz:
    """ghz with one prebuilt request against an address."""

    def __init__(self, folder: Path, address: str, seconds: float) -> None:
        from google.protobuf.descriptor_pb2 import FileDescriptorSet
        from tritonclient.grpc import model_config_pb2, service_pb2

        probe = GrpcClient(address, parts.SMALL, 10)
        interface = ModelInterface.from_metadata(probe.metadata())
        probe.close()
        descriptors = FileDescriptorSet()
        for module in (model_config_pb2, service_pb2):
            module.DESCRIPTOR.CopyToProto(descriptors.file.add())
        (folder / "inference.protoset").write_bytes(descriptors.SerializeToString())
        (folder / "request.bin").write_bytes(GrpcClient.build(interface)[0])
        self._file, self._seconds = folder / "ghz.json", seconds
        self._command = [
            str(built("ghz")), "--insecure", "--protoset", str(folder / "inference.protoset"),
            "--call", "inference.GRPCInferenceService.ModelInfer",
            "--binary-file", str(folder / "request.bin"), "--timeout", "30s", "--duration-stop", "wait",
            "--duration", f"{WARM_UP + seconds:g}s", "--format", "json", "--output", str(self._file),
        ]  # fmt: skip
        self._address = address

    def measure(self, options: list[str]) -> dict[str, float]:
        """Requests a second and p99 (seconds) of those begun after WARM_UP seconds. Raises CheckFailed."""
        subprocess.run([*self._command, *options, self._address], check=True)
        details = json.loads(self._file.read_text())["details"]
        begun = [datetime.fromisoformat(each["timestamp"]).timestamp() for each in details]
        since = min(begun) + WARM_UP
        kept = [
            each for each, when in zip(details, begun, strict=True) if since <= when < since + self._seconds
        ]
        if failed := [each for each in kept if each["status"] != "OK"]:
            raise CheckFailed(f"{len(failed)} of ghz's requests failed: {failed[0]['error']}")
        latencies = [each["latency"] / 1e9 for each in kept]
        return {
            "requests_per_second": len(kept) / self._seconds,
            "p99": float(np.percentile(latencies, 99, method="inverted_cdf")),
        }


def compare(
    kind: str, rounds: int, seconds: float, rate: float, in_flight: int, api: LocustApi, ghz: Ghz
) -> dict[str, Any]:
    """Medians over the rounds of both, and the ratio of ours to ghz's."""
    settings = Settings(
        users=in_flight, spawn_rate=100, duration=seconds, protocol="grpc",
        arrival="constant" if kind == "open" else "closed", requests_per_second=rate, workers=1,
    )  # fmt: skip
    options = ["--connections", str(in_flight), "--concurrency", str(in_flight)]
    if kind == "open":
        options += ["--async", "--rps", f"{rate:g}"]

    def ours() -> dict[str, float]:
        total: Any = parts.load(api, settings)["total"]
        if total["failures"]:
            raise CheckFailed(f"{total['failures']} of our requests failed")
        return {"requests_per_second": total["requests_per_second"], "p99": total["latency"]["p99"]}

    measured: dict[str, list[dict[str, float]]] = {"ours": [], "ghz": []}
    for index in range(rounds):
        for name in ("ours", "ghz") if index % 2 == 0 else ("ghz", "ours"):
            measured[name].append(ours() if name == "ours" else ghz.measure(options))
        print(f"{kind}, round {index + 1}: {measured['ours'][-1]} ghz {measured['ghz'][-1]}", file=sys.stderr)
    row: dict[str, Any] = {"rounds": measured}
    for key in ("requests_per_second", "p99"):
        medians = {name: statistics.median(each[key] for each in rows) for name, rows in measured.items()}
        row[key] = medians | {"ratio": medians["ours"] / medians["ghz"]}
    return row


def shown(report: dict[str, Any]) -> str:
    return "\n".join(
        "{}: {ours:.1f}/s against ghz's {ghz:.1f}/s (ratio {ratio:.3f})".format(
            kind, **row["requests_per_second"]
        )
        + ", p99 {ours:.4f} s against {ghz:.4f} s (ratio {ratio:.3f})".format(**row["p99"])
        for kind, row in report.items()
    )


if __name__ == "__main__":
    run(command, "loadtest_crosscheck")
