"""What `model-tools plan` predicts against a real Triton: throughput and p99 over loads and settings.

    python benchmarks/plan_validation.py --realtime --json build/plan-validation.json

The curve comes first, from servers of their own: batches of one size, kept full by a closed loop, on each
number of instances. Then each setting gets open loops of Poisson arrivals at shares of what the curve says
that it serves. A latency counts from the moment at which a request was due. The simulation gets the same
arrivals, so that what differs is the model of the server and not the luck of the draw, and nothing of what
was measured under load.

The model is a small convolutional network in OpenVINO on one thread an instance; or, with --compute wait, one
that waits for as long as a GPU might take (8 ms, and 2 ms for each request of a batch) and needs no more of
the processor than Triton's own part: then it is the queue and the batches that are compared. On a machine
that does other work --realtime gives server and client the processors before everything else (SCHED_RR, which
root may). The kernel stops such processes for 50 ms of a second in which they need a whole processor, which
OpenVINO does at high loads.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from model_tools import bundle
from model_tools.bundle import Bundle
from model_tools.config import Batching, ModelConfig, Queue
from model_tools.console import BadInput, CheckFailed, run
from model_tools.pictures import pictures
from model_tools.plan.curves import Curve, Point
from model_tools.plan.queueing import poisson, simulate
from model_tools.repository import write_repository
from model_tools.serve import LocalTriton
from model_tools.values import load_values, merge

MODEL = "small"
PICTURE = (64, 64, 3)
LOCAL_VALUES = Path(__file__).parent.parent / "values" / "local.yaml"
SIZES = (1, 2, 4, 8)
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995)
QUEUE = Queue(64, 2_000_000)
SETTINGS: dict[str, tuple[Batching, int]] = {
    "no batching": (Batching(1, (1,), 0, QUEUE), 1),
    "batches of 8": (Batching(8, (8,), 0, QUEUE), 1),
    "batches of 4 or 8, delay 20 ms": (Batching(8, (4, 8), 20_000, QUEUE), 1),
    "batches of 8, 2 instances": (Batching(8, (8,), 0, QUEUE), 2),
}
WAITING = """
import time

import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        end = time.perf_counter() + 0.008 + 0.002 * len(requests)
        row = numpy.zeros((1, 10), numpy.float32)
        answers = [
            pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", row)]) for _ in requests
        ]
        time.sleep(max(0.0, end - time.perf_counter()))
        return answers
"""
LOADS = (0.5, 0.7, 0.9, 1.3)


@dataclass(frozen=True)
class Case:
    """Errors are the prediction's, to what was measured. lag: seconds that the client sent late, p99."""

    setting: str
    load: float
    offered: float
    throughput: float
    throughput_predicted: float
    p99: float
    p99_predicted: float
    refused: float
    refused_predicted: float
    batch: float
    batch_predicted: float
    lag: float

    @property
    def throughput_error(self) -> float:
        return self.throughput_predicted / self.throughput - 1

    @property
    def p99_error(self) -> float:
        return self.p99_predicted / self.p99 - 1


@click.command()
@click.option("--seconds", default=30.0, show_default=True, type=click.FloatRange(1), help="Of each load.")
@click.option(
    "--curve-seconds", default=5.0, show_default=True, type=click.FloatRange(1), help="Of each point."
)
@click.option("--setting", "names", multiple=True, type=click.Choice(list(SETTINGS)), help="[default: all]")
@click.option("--compute", default="openvino", show_default=True, type=click.Choice(["openvino", "wait"]))
@click.option("--layers", default=6, show_default=True, type=click.IntRange(1), help="Of the network.")
@click.option("--realtime", is_flag=True, help="Processors before everything else on the machine.")
@click.option("--within", nargs=2, type=float, default=None, metavar="THROUGHPUT P99",
              help="Exit with 1 where an error is above: 0.05 0.15 are the goal.")  # fmt: skip
@click.option("--json", "file", metavar="FILE", type=click.Path(path_type=Path), help="Everything, as JSON.")
def command(
    seconds: float, curve_seconds: float, names: tuple[str, ...], compute: str, layers: int, realtime: bool,
    within: tuple[float, float] | None, file: Path | None,
) -> None:  # fmt: skip
    """Compare predictions of the simulation with a local Triton."""
    if realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # what it starts inherits it
    settings = {name: SETTINGS[name] for name in names or SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        model = None if compute == "wait" else Bundle.load(_model(Path(folder) / "model", layers))
        curve = measure_curve(model, {count for _, count in settings.values()}, curve_seconds)
        cases = []
        for name, (batching, count) in settings.items():
            with _server(model, batching, count) as address:
                for seed, load in enumerate(LOADS):
                    case = measure(curve, address, name, batching, count, load, seconds, seed + 1)
                    cases.append(case)
                    print(_line(case), flush=True)
    record = {
        "realtime": realtime, "seconds": seconds, "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0], "compute": compute, "layers": layers,
        "curve": [
            {"batch": point.batch, "instances": point.instances}
            | {f"p{share * 100:g}_ms": round(value, 3) for share, value in point.quantiles}
            for point in curve.points
        ],
        "overhead_ms": curve.overhead * 1000,
        "cases": [
            vars(case) | {"throughput_error": case.throughput_error, "p99_error": case.p99_error}
            for case in cases
        ],
    }  # fmt: skip
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n")
    worst = [max(abs(case.throughput_error) for case in cases), max(abs(case.p99_error) for case in cases)]
    print(f"largest errors: throughput {worst[0] * 100:.1f} %, p99 {worst[1] * 100:.1f} %")
    if within and (worst[0] > within[0] or worst[1] > within[1]):
        raise CheckFailed(f"above {within[0] * 100:g} % of throughput or {within[1] * 100:g} % of p99")


def measure_curve(model: Bundle | None, counts: set[int], seconds: float) -> Curve:
    """Times of batches of SIZES, on 1 instance and each of `counts`, in closed loops that keep them full."""
    points: list[Point] = []
    overhead = 0.0
    for count in sorted({1, *counts}):
        for size in SIZES:
            with _server(model, Batching(size, (size,), 0, Queue(1024, 0)), count) as address:
                times = asyncio.run(_closed_loop(address, 3 * size * count, seconds))
                # Each `size` answers are a batch. Of k instances one ends every kth of a batch's time.
                ends = np.sort(times)[:: size * count]
                spans = np.diff(ends)[2:] * 1000
                quantiles = tuple((share, float(np.quantile(spans, share))) for share in QUANTILES)
                points.append(Point(size, count, quantiles))
                if size == count == 1:
                    alone = asyncio.run(_one_by_one(address, seconds / 2))
                    overhead = max(0.0, float(np.median(alone)) - points[-1].typical / 1000)
                print(f"curve: batch {size}, {count} instances: {points[-1].typical:.2f} ms", flush=True)
    return Curve("measured here", "this processor", "fp32", "measured", (), (), tuple(points), overhead)


def measure(
    curve: Curve,
    address: str,
    name: str,
    batching: Batching,
    count: int,
    load: float,
    seconds: float,
    seed: int,
) -> Case:
    """One open loop, and what the simulation says of the same arrivals."""
    service = curve.service(count, batching.max_size)
    rate = load * service.capacity(batching.max_size)
    arrivals = poisson(rate, max(50, round(rate * seconds)), seed)
    predicted = simulate(arrivals, batching, service, seed)
    asyncio.run(_one_by_one(address, 1))  # a warm-up
    before = asyncio.run(_batches(address))
    latency, refused, duration, lag = asyncio.run(_open_loop(address, arrivals))
    after = asyncio.run(_batches(address))
    return Case(
        setting=name, load=load, offered=len(arrivals) / arrivals[-1],
        throughput=len(latency) / duration, throughput_predicted=predicted.throughput,
        p99=float(np.quantile(latency, 0.99)), p99_predicted=predicted.percentile(0.99),
        refused=refused / len(arrivals), refused_predicted=predicted.refused_share,
        batch=(after[0] - before[0]) / (after[1] - before[1]), batch_predicted=predicted.mean_batch, lag=lag,
    )  # fmt: skip


def _line(case: Case) -> str:
    return (
        f"{case.setting}, load {case.load:.1f}:"
        f" {case.throughput:.1f}/s, predicted {case.throughput_predicted:.1f} ({case.throughput_error:+.1%});"
        f" p99 {case.p99 * 1000:.1f} ms, predicted {case.p99_predicted * 1000:.1f} ({case.p99_error:+.1%});"
        f" batch {case.batch:.2f}, predicted {case.batch_predicted:.2f};"
        f" refused {case.refused:.1%}, predicted {case.refused_predicted:.1%};"
        f" sent {case.lag * 1000:.1f} ms late"
    )


@contextmanager
def _server(model: Bundle | None, batching: Batching, count: int) -> Iterator[str]:
    """gRPC address of a Triton that serves the model so; without one, a model that waits."""
    tensors = {
        "name": MODEL,
        "input": {"name": "image", "dataType": "UINT8", "shape": list(PICTURE)},
        "output": {"name": "probabilities", "dataType": "FP32", "shape": [10]},
        "instances": {"count": count, "threads": 1},
    }
    config = ModelConfig.from_values(merge(load_values([LOCAL_VALUES])["model"], tensors))
    with tempfile.TemporaryDirectory() as folder:
        repository, config = Path(folder) / "repository", replace(config, batching=batching)
        if model:
            write_repository([(model, config)], repository)
        else:
            _write_waiting(config, repository)
        with LocalTriton(repository, exit_seconds=0) as triton:
            yield triton.grpc


def _write_waiting(config: ModelConfig, repository: Path) -> None:
    from google.protobuf import text_format

    proto = config.to_proto()
    proto.backend, proto.default_model_filename = "python", "model.py"
    del proto.model_warmup[:]
    folder = repository / MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(proto))
    (folder / "1" / "model.py").write_text(WAITING)


@contextmanager
def _calls(address: str) -> Iterator[tuple[Any, Any]]:
    """The stub of a channel, and a request that is ready to be sent."""
    import grpc.aio
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, *PICTURE])
    assert tensor.name
    request.raw_input_contents.append(pictures(1, *PICTURE).tobytes())
    yield service_pb2_grpc.GRPCInferenceServiceStub(grpc.aio.insecure_channel(address)), request


async def _closed_loop(address: str, in_flight: int, seconds: float) -> list[float]:
    """When answers came while so many requests are always under way, after a second of warm-up."""
    with _calls(address) as (stub, request):
        begin = time.perf_counter()
        ends: list[float] = []

        async def one() -> None:
            while (now := time.perf_counter()) < begin + 1 + seconds:
                await stub.ModelInfer(request)
                if now > begin + 1:
                    ends.append(time.perf_counter())

        await asyncio.gather(*(one() for _ in range(in_flight)))
        return ends


async def _one_by_one(address: str, seconds: float) -> list[float]:
    """Seconds of requests that follow each other."""
    with _calls(address) as (stub, request):
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            await stub.ModelInfer(request)
            taken.append(time.perf_counter() - begin)
        return taken


async def _open_loop(
    address: str, arrivals: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int, float, float]:
    """Seconds from when requests were due to their answers; refusals; seconds of all; p99 of the lag."""
    import grpc

    with _calls(address) as (stub, request):
        latency: list[float] = []
        refusals: list[str] = []
        lags: list[float] = []

        async def one(due: float) -> None:
            lags.append(time.perf_counter() - due)
            try:
                await stub.ModelInfer(request)
                latency.append(time.perf_counter() - due)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                refusals.append(error.details() or "")

        begin = time.perf_counter() + 0.1
        tasks = []
        for arrival in arrivals:
            wait = begin + arrival - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(begin + arrival)))
        await asyncio.gather(*tasks)
        duration = time.perf_counter() - begin - arrivals[0]
    if not latency:
        raise BadInput(f"{address}: no request was answered ({refusals[:1]})")
    return np.array(latency), len(refusals), duration, float(np.quantile(lags, 0.99))


async def _batches(address: str) -> tuple[int, int]:
    """Requests and batches that Triton has executed."""
    from tritonclient.grpc import service_pb2

    with _calls(address) as (stub, _):
        answer = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=MODEL))
        (model,) = answer.model_stats
        return model.inference_count, model.execution_count


def _model(folder: Path, layers: int) -> Path:
    """A model directory of a small network of convolutions with random weights."""
    import onnx
    from onnx import helper, numpy_helper

    rng, channels = np.random.default_rng(0), 48
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for layer in range(layers):
        shape = (channels, PICTURE[2] if layer == 0 else channels, 3, 3)
        weight = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes += [
            helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]),
        ]
    weights.append(numpy_helper.from_array(rng.normal(size=(channels, 10)).astype(np.float32), "dense"))
    nodes += [
        helper.make_node("ReduceMean", [f"x{layers}"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "dense"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes, MODEL,
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", *PICTURE])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", 10])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder.mkdir()
    (folder / bundle.MODEL).write_bytes(model.SerializeToString())
    metadata = {
        "input": {"name": "image", "data_type": "UINT8", "shape": list(PICTURE)},
        "output": {"name": "probabilities", "data_type": "FP32", "shape": [10]},
    }
    bundle.write(folder, metadata, pictures(1, *PICTURE), np.zeros((1, 10), np.float32))
    return folder


if __name__ == "__main__":
    run(command, "plan_validation.py", sys.argv[1:])
