"""One process of load on one or more Tritons: requests in flight at all times, pictures in them or shared.

Started by triton.py, several at once, which count the same seconds: from --start (seconds since the epoch)
for --seconds. Prints one JSON object: answers, how late it ended, latencies in ms.

The requests are made once, as bytes: a generator that encodes the same picture again and again measures
itself.
"""

from __future__ import annotations

import argparse
import base64
import json
import mmap
import os
import queue
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

SHAPE = (224, 224, 3)
CLASSES = 1000
PICTURE = 224 * 224 * 3
METHOD = "/inference.GRPCInferenceService/ModelInfer"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Region:
    """Shared memory of this process that Triton reads a request's input from; CUDA's is on the GPU `gpu`."""

    def __init__(self, client: Any, name: str, kind: str, content: bytes, gpu: int = 0) -> None:
        self._client, self.name, self._kind, self._file = client, name, kind, Path("/dev/shm") / name
        if kind == "cuda":
            from model_tools.engine.cuda import Cuda

            cuda = Cuda(gpu)
            cuda.activate()
            self._memory: Any = cuda.allocate(len(content))
            host, stream = cuda.allocate_host(len(content)), cuda.stream()
            import ctypes

            ctypes.memmove(host, content, len(content))
            cuda.copy(self._memory, host, len(content), stream)
            cuda.synchronize_stream(stream)
            handle = base64.b64encode(cuda.ipc_handle(self._memory))
            client.register_cuda_shared_memory(name, handle, 0, len(content))  # each Triton sees one GPU
        else:
            with self._file.open("w+b") as file:
                file.truncate(len(content))
                self._memory = mmap.mmap(file.fileno(), len(content))
            self._memory[:] = content
            client.register_system_shared_memory(name, f"/{name}", len(content))

    def close(self) -> None:
        if self._kind == "cuda":
            self._client.unregister_cuda_shared_memory(self.name)
        else:
            self._client.unregister_system_shared_memory(self.name)
            self._file.unlink()


def request(model: str, batch: int, region: Region | None, pixels: bytes) -> bytes:
    """The message of a request, encoded."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=model)
    tensor = message.inputs.add(name="image", datatype="UINT8", shape=[batch, *SHAPE])
    message.outputs.add(name="probabilities")
    if region is None:
        message.raw_input_contents.append(pixels)
    else:
        tensor.parameters["shared_memory_region"].string_param = region.name
        tensor.parameters["shared_memory_byte_size"].int64_param = len(pixels)
    return bytes(message.SerializeToString())


def check(answer: bytes, batch: int) -> None:
    """Raises AssertionError for an answer that holds no probabilities."""
    import numpy as np
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferResponse.FromString(answer)
    rows = np.frombuffer(message.raw_output_contents[0], np.float32).reshape(batch, CLASSES)
    assert np.isfinite(rows).all(), "an answer is not finite"
    if not os.environ.get("ANY_ANSWER"):
        assert np.abs(rows.sum(axis=1) - 1).max() < 0.02, f"rows sum to {rows.sum(axis=1)[:4]}"


def drive(
    sends: list[Callable[[bytes], Any]], requests: list[bytes], batch: int, start: float, seconds: float
) -> list[float]:
    """Latencies in ms of the answers within the seconds; each request goes to one server, in turns."""
    done: queue.SimpleQueue[tuple[int, float, Any]] = queue.SimpleQueue()
    latencies: list[float] = []
    first = True

    def launch(index: int) -> None:
        began = time.time()
        future = sends[index % len(sends)](requests[index])
        future.add_done_callback(lambda future: done.put((index, began, future)))

    for index in range(len(requests)):
        launch(index)
    flying = len(requests)
    while flying:
        index, began, future = done.get()
        ended = time.time()
        answer = future.result()
        if first:
            check(answer, batch)
            first = False
        if start <= ended < start + seconds:
            latencies.append((ended - began) * 1000)
        if ended < start + seconds:
            launch(index)
        else:
            flying -= 1
    check(answer, batch)
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", action="append", required=True, help="of a Triton; the Nth has the Nth GPU")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--memory", choices=("message", "system", "cuda"), default="message")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--start", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()

    import grpc
    import tritonclient.grpc as triton_grpc

    batch, kind = arguments.batch, arguments.memory
    pixels = [os.urandom(PICTURE * batch) for _ in range(min(4, arguments.concurrency))]
    clients = [triton_grpc.InferenceServerClient(url) for url in arguments.url]
    regions: list[Region | None] = [None] * arguments.concurrency
    requests = []
    for index in range(arguments.concurrency):
        content, gpu = pixels[index % len(pixels)], index % len(clients)
        if kind != "message":
            regions[index] = Region(clients[gpu], f"load-{os.getpid()}-{index}", kind, content, gpu)
        requests.append(request(arguments.model, batch, regions[index], content))
    with ExitStack() as channels:
        sends = [
            channels.enter_context(grpc.insecure_channel(url, options=OPTIONS)).unary_unary(METHOD).future
            for url in arguments.url
        ]
        try:
            latencies = drive(sends, requests, batch, arguments.start, arguments.seconds)
        finally:
            for region in regions:
                if region:
                    region.close()
    late = time.time() - arguments.start - arguments.seconds
    print(json.dumps({"answers": len(latencies), "late_s": round(late, 2), "latencies": latencies}))


if __name__ == "__main__":
    main()
