"""Whether a queue that is full keeps the instances busy that take their batches from it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb

from model_tools.runtime import Runtime, triton_runtime
from model_tools.serve import LocalTriton
from tests.hostile.stack import preloaded

BATCH = 4
COMPUTING = 0.04  # seconds that a batch takes
CAPACITY = BATCH / COMPUTING  # requests a second
SECONDS = 3.0
CONFIG = f"""
backend: "python"
max_batch_size: {BATCH}
input {{ name: "x" data_type: TYPE_FP32 dims: [1] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [1] }}
instance_group {{ count: 1 kind: KIND_CPU }}
dynamic_batching {{
  preferred_batch_size: [{BATCH}]
  max_queue_delay_microseconds: 2000
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: 20000000
    max_queue_size: 16
  }}
}}
"""
MODEL = f"""
import time

import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep({COMPUTING})
        given = [utils.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        return [utils.InferenceResponse([utils.Tensor("y", each)]) for each in given]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "sleeper"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.py").write_text(MODEL)
    return folder.parent


async def flooded(address: str) -> tuple[float, set[str]]:
    """Five times the capacity for SECONDS: the share of it that was answered, and how others were refused."""
    message = pb.ModelInferRequest(model_name="sleeper")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    message.outputs.add(name="y")
    message.raw_input_contents.append(np.zeros(1, np.float32).tobytes())
    request = message.SerializeToString()
    answered: list[float] = []
    refusals: set[str] = set()
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def one() -> None:
            try:
                await infer(request, timeout=60)
                answered.append(time.monotonic())
            except grpc.RpcError as refusal:
                refusals.add(refusal.details())

        await one()
        answered.clear()
        began = time.monotonic()
        under_way = []
        for number in range(int(5 * CAPACITY * SECONDS)):
            await asyncio.sleep(max(0.0, began + number / (5 * CAPACITY) - time.monotonic()))
            under_way.append(asyncio.create_task(one()))
        ended = time.monotonic()
        await asyncio.gather(*under_way)
    in_time = sum(at <= ended for at in answered)
    return in_time / (CAPACITY * (ended - began)), refusals


def share(repository: Path, runtime: Runtime) -> float:
    with LocalTriton(repository, exit_seconds=0, runtime=runtime, log=lambda _: None) as triton:
        answered, refusals = asyncio.run(flooded(triton.grpc))
    assert refusals
    assert all("Exceeds maximum queue size" in refusal for refusal in refusals)
    return answered


def test_a_full_queue_keeps_its_instance_busy(repository: Path, tmp_path: Path) -> None:
    try:
        runtime = preloaded(tmp_path)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert share(repository, runtime) > 0.6


def test_without_what_the_images_preload_it_waits_for_most_of_the_time(repository: Path) -> None:
    """Where this fails, Triton has been mended: images/preload/batcher.c can go."""
    assert share(repository, triton_runtime()) < 0.45
