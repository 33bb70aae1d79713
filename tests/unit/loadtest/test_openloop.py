"""An open loop keeps its schedule against a server that stalls, and counts what that costs. Loopback only."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from loadtest.arrivals import Profile, arrivals
from loadtest.clients import GrpcClient, RequestFailed
from loadtest.openloop import AFTER, AsyncGrpc, OpenLoop
from loadtest.payloads import ModelInterface
from loadtest.statistics import merged, percentile

INTERFACE = ModelInterface("m", "image", "UINT8", (1, 8, 8, 3), False, "probabilities", "FP32", (1, 10), True)
RATE = 50.0
STALL = 1.0  # seconds


class Server:
    """Answers at once, but for the time between stall() and STALL seconds later, when all requests wait."""

    def __init__(self) -> None:
        answer = service_pb2.ModelInferResponse(model_name="m", model_version="1")
        answer.outputs.add(name="probabilities", datatype="FP32", shape=[1, 10])
        answer.raw_output_contents.append(np.full(10, 0.1, np.float32).tobytes())
        self._answer = answer.SerializeToString()
        self._until = 0.0
        self._lock = threading.Lock()
        self.in_flight = self.most = 0

    def stall(self) -> None:
        self._until = time.monotonic() + STALL

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        time.sleep(max(0.0, self._until - time.monotonic()))
        with self._lock:
            self.in_flight -= 1
        return self._answer


@contextmanager
def serving() -> Iterator[tuple[Server, str]]:
    server = Server()
    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelInfer": grpc.unary_unary_rpc_method_handler(server.infer)}
    )
    with ThreadPoolExecutor(200) as threads:
        process = grpc.server(threads, handlers=[handler])
        port = process.add_insecure_port("127.0.0.1:0")
        process.start()
        try:
            yield server, f"127.0.0.1:{port}"
        finally:
            process.stop(0).wait()


async def measured(loop: OpenLoop) -> dict[str, Any]:
    """The report once all that was measured is answered."""
    deadline = time.monotonic() + 60
    while (report := loop.report())["part"] != AFTER or report["open"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    return report


def open_loop(
    address: str, seconds: float, meanwhile: Callable[[], None], limit: int = 1000, timeout: float = 30
) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        client = AsyncGrpc(address, 2, INTERFACE)
        await client.infer(timeout=20)  # connected
        loop = OpenLoop([client], arrivals("constant", Profile(RATE)), limit, timeout)
        try:
            loop.begin(seconds, arrivals("constant", Profile(RATE)))
            asyncio.get_running_loop().call_later(seconds / 2, meanwhile)
            return await measured(loop)
        finally:
            await loop.close()

    return asyncio.run(run())


def closed_loop(address: str, seconds: float) -> dict[float, int]:
    """One user who waits for each answer, and times it from when it sent."""
    client = GrpcClient(address, "m", 30, INTERFACE)
    (request, *_) = GrpcClient.build(INTERFACE)
    client.infer(request)
    times: dict[float, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.perf_counter()
        client.infer(request)
        key = (time.perf_counter() - begin) * 1000
        times[key] = times.get(key, 0) + 1
        time.sleep(1 / RATE)
    client.close()
    return times


def successes(report: dict[str, Any]) -> dict[float, int]:
    return dict(report["protocols"]["grpc"]["times"]["success"])


@pytest.mark.nightly  # compares times of two loads at once: a busy machine decides
def test_a_stall_of_a_second_is_seen_by_every_request_that_was_due_in_it() -> None:
    """Coordinated omission: the closed loop's p99 hides what the open loop's shows, at one server."""
    with serving() as (server, address), ThreadPoolExecutor(1) as other:
        waiting = other.submit(closed_loop, address, 5)
        opened = open_loop(address, 5, server.stall)
        closed = waiting.result()
    assert opened["offered"] == pytest.approx(5 * RATE, abs=2), "the schedule does not wait for answers"
    assert opened["sent"] == opened["offered"]
    assert sum(successes(opened).values()) == opened["offered"]
    # Arrivals are even, so those of the stall wait for between 0 and 1 second: half of them 500 ms or more.
    late = sum(count for key, count in successes(opened).items() if key >= 500 * STALL)
    assert late > 0.7 * RATE * STALL / 2
    seen = percentile(successes(opened), 0.99)
    assert seen is not None
    assert seen > 700
    assert max(closed) > 700, "the one request that was in flight did see it"
    hidden = percentile(closed, 0.99)
    assert hidden is not None
    assert hidden < seen / 2


def test_no_more_than_the_limit_are_in_flight_and_the_rest_wait_with_the_clock_on() -> None:
    with serving() as (server, address):
        report = open_loop(address, 2, server.stall, limit=5)
    assert server.most <= 5
    assert report["in_flight_most"] == 5
    assert report["held"] > RATE * STALL / 2, "what waited is told"
    assert sum(successes(report).values()) == report["offered"]
    late = sum(count for key, count in successes(report).items() if key >= 500 * STALL)
    assert late > 0.7 * RATE * STALL / 2


def test_a_request_fails_when_its_time_since_it_was_due_is_over() -> None:
    with serving() as (server, address):
        report = open_loop(address, 2, server.stall, limit=5, timeout=0.4)
    times, errors = report["protocols"]["grpc"]["times"], report["protocols"]["grpc"]["errors"]
    # A place comes free no later than the request before it gives up; one that is over by then is not sent.
    assert {"success", "DEADLINE_EXCEEDED"} <= set(times) <= {"success", "DEADLINE_EXCEEDED", "timeout"}
    assert sum(merged(list(times.values())).values()) == report["offered"]
    failed = merged([histogram for outcome, histogram in times.items() if outcome != "success"])
    assert sum(failed.values()) == sum(errors.values()) > RATE * (STALL - 0.4) / 3
    assert min(failed) > 390, "the wait for a place is part of a request's time, and no more than it"


def test_only_what_was_due_in_the_measured_part_is_measured() -> None:
    async def run(address: str) -> dict[str, Any]:
        client = AsyncGrpc(address, 1, INTERFACE)
        await client.infer(timeout=20)
        loop = OpenLoop([client], arrivals("constant", Profile(100)), 100, 30)
        try:
            await asyncio.sleep(0.3)
            loop.begin(1, iter([0.0, 0.25, 0.5, 0.999, 1.2, 1.3]))
            report = await measured(loop)
            assert report["offered_ever"] > report["offered"]
            return report
        finally:
            await loop.close()

    with serving() as (_, address):
        report = asyncio.run(run(address))
    assert report["offered"] == 4
    assert sum(successes(report).values()) == 4
    assert report["protocols"]["grpc"]["answers"] >= 3  # the last one's may come a moment late


def test_an_answer_that_no_model_gives_is_a_failure() -> None:
    with serving() as (server, address):
        server._answer = service_pb2.ModelInferResponse(model_name="m").SerializeToString()

        async def ask() -> None:
            client = AsyncGrpc(address, 1, INTERFACE)
            try:
                await client.infer(timeout=20)
            finally:
                await client.close()

        with pytest.raises(RequestFailed, match="wrong_answer: the answer holds no output"):
            asyncio.run(ask())
