"""What the load test's own benchmarks share: processes on chosen processors, a model's interface, a run."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import requests

from benchmarks.go_tools import built
from loadtest.api import LocustApi
from loadtest.payloads import ModelInterface
from loadtest.run import Settings, run_load
from model_tools.console import CheckFailed

START = 60.0  # seconds for a process to be ready
SMALL = "small"
# A request of 192 bytes of pixels, an answer of 10 probabilities.
INTERFACE = ModelInterface(
    SMALL, "image", "UINT8", (1, 8, 8, 3), False, "probabilities", "FP32", (1, 10), True
)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def pinned(command: list[str], processors: str | None) -> list[str]:
    """The command on these processors, as taskset takes them."""
    return [*(["taskset", "--cpu-list", processors] if processors is not None else []), *command]


@contextmanager
def process(
    command: list[str], processors: str | None = None, ready: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The command, pinned, once it has written a line with `ready`."""
    started = subprocess.Popen(
        pinned(command, processors),
        stdout=subprocess.PIPE if ready else subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        while ready:
            assert started.stdout
            line = started.stdout.readline()
            if not line:
                raise CheckFailed(f"{command[0]} ended before it was ready")
            if ready in line:
                break
        yield started
    finally:
        started.terminate()
        started.wait()


@contextmanager
def answerer(folder: Path, processors: str | None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address, and the process: a server that answers INTERFACE's requests and does nothing else."""
    from tritonclient.grpc import service_pb2

    answer = service_pb2.ModelInferResponse(model_name=SMALL, model_version="1")
    answer.outputs.add(name="probabilities", datatype="FP32", shape=[1, 10])
    answer.raw_output_contents.append(np.full(10, 0.1, np.float32).tobytes())
    metadata = service_pb2.ModelMetadataResponse(name=SMALL, versions=["1"])
    metadata.inputs.add(name="image", datatype="UINT8", shape=[-1, 8, 8, 3])
    metadata.outputs.add(name="probabilities", datatype="FP32", shape=[-1, 10])
    methods = []
    for method, message in {"ModelInfer": answer, "ModelMetadata": metadata}.items():
        file = folder / f"{method}.bin"
        file.write_bytes(message.SerializeToString())
        methods.append(f"/inference.GRPCInferenceService/{method}={file}")
    address = f"127.0.0.1:{free_port()}"
    with process([str(built("answerer")), "-listen", address, *methods], processors, "ready") as server:
        yield address, server


@contextmanager
def locust(grpc_url: str, model: str, worker_on: str | None, master_on: str | None) -> Iterator[LocustApi]:
    """A Locust master with one worker, which has its sender beside it on the same processors."""
    web, port = free_port(), free_port()
    command = [sys.executable, "-m", "loadtest.cli"]
    target = ["--grpc-url", grpc_url, "--model", model]
    master = [
        "--web-host", "127.0.0.1", "--web-port", str(web),
        "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port),
    ]  # fmt: skip
    worker = ["--master-host", "127.0.0.1", "--master-port", str(port)]
    with ExitStack() as stack:
        stack.enter_context(process([*command, "master", *master, *target], master_on))
        stack.enter_context(process([*command, "worker", *worker, *target], worker_on))
        api = LocustApi(requests.Session(), f"http://127.0.0.1:{web}")
        deadline = time.monotonic() + START
        while api.snapshot(patience=START).connected < 1:
            if time.monotonic() > deadline:
                raise CheckFailed("Locust's worker does not connect")
            time.sleep(0.5)
        yield api


def load(api: LocustApi, settings: Settings) -> dict[str, object]:
    return run_load(api, settings, lambda stage, part, shown: None)
