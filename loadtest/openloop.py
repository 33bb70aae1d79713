"""An open loop: requests leave when the clock says so, and each answer's time counts from that moment.

A closed loop waits for a slow server, so it asks it less and sees each stall once (coordinated omission).
Here answers decide nothing: a server that stalls for a second finds a second's worth of requests waiting, and
each of them has waited since it was due. The loop is asyncio's, because grpc.aio sends more requests on a
core than gRPC under gevent does (benchmarks/loadtest_rate.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from loadtest.alarm import Alarm
from loadtest.clients import (
    JSON_SIZE,
    GrpcClient,
    HttpClient,
    RequestFailed,
    grpc_answer,
    grpc_channel,
    grpc_failure,
    http_answer,
    http_base,
    http_detail,
    http_path,
    trusted,
)
from loadtest.payloads import ModelInterface
from loadtest.statistics import bucket

AT_ONCE = 256  # requests to start before answers are looked at: a loop that is behind must still read
WARMING, MEASURING, AFTER = 0, 1, 2  # parts of a run: only arrivals of the second one are in its statistics


class AsyncClient(Protocol):
    protocol: str

    async def infer(self, timeout: float) -> None:
        """Sends the next prebuilt request and checks the answer. Raises RequestFailed. timeout in seconds."""

    async def close(self) -> None: ...


class AsyncGrpc:
    """So many channels, each a connection of its own, that take turns."""

    protocol = "grpc"

    def __init__(self, url: str, connections: int, interface: ModelInterface) -> None:
        import grpc.aio
        from tritonclient.grpc import service_pb2

        self._interface = interface
        self._channels = [grpc_channel(grpc.aio, url) for _ in range(connections)]
        self._calls = [
            channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=None,  # requests are bytes already
                response_deserializer=service_pb2.ModelInferResponse.FromString,
            )
            for channel in self._channels
        ]
        self._requests = GrpcClient.build(interface)
        self._failed = grpc.aio.AioRpcError
        self._count = 0

    async def infer(self, timeout: float) -> None:
        self._count += 1
        call = self._calls[self._count % len(self._calls)]
        request = self._requests[self._count // len(self._calls) % len(self._requests)]
        try:
            answer = await call(request, timeout=timeout)
        except self._failed as error:
            raise grpc_failure(error) from None
        grpc_answer(self._interface, answer)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class AsyncHttp:
    """Kept-alive connections, as many as there are requests in flight."""

    protocol = "http"

    def __init__(self, url: str, model: str, interface: ModelInterface) -> None:
        import ssl

        import aiohttp

        certificates = trusted()
        context = ssl.create_default_context(cadata=certificates.decode() if certificates else None)
        self._interface = interface
        self._url = f"{http_base(url)}{http_path(model)}/infer"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._requests = HttpClient.build(interface)
        self._count = 0

    async def infer(self, timeout: float) -> None:
        import aiohttp

        self._count += 1
        body, headers = self._requests[self._count % len(self._requests)]
        try:
            async with asyncio.timeout(timeout):
                try:
                    status, size, answer = await self._post(body, headers)
                except aiohttp.ServerDisconnectedError:
                    # A kept connection ended just when the request was sent: the server looked at none of it.
                    status, size, answer = await self._post(body, headers)
        except TimeoutError:
            raise RequestFailed("timeout", "no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise RequestFailed("connection", str(error) or type(error).__name__) from None
        if status != 200:
            raise RequestFailed(str(status), http_detail(answer))
        http_answer(self._interface, answer, size)

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str | None, bytes]:
        async with self._session.post(self._url, data=body, headers=headers) as answer:
            return answer.status, answer.headers.get(JSON_SIZE), await answer.read()

    async def close(self) -> None:
        await self._session.close()


@dataclass
class Outcomes:
    """One protocol's requests: histograms of milliseconds since they were due, by outcome."""

    times: dict[str, dict[float, int]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    answers: int = 0  # with success, while it was measured, whenever they were asked for

    def add(self, outcome: str, milliseconds: float, error: str | None) -> None:
        times = self.times.setdefault(outcome, {})
        key = bucket(milliseconds)
        times[key] = times.get(key, 0) + 1
        if error is not None:
            self.errors[error] = self.errors.get(error, 0) + 1


class OpenLoop:
    """Sends over the clients in turn when `arrivals` (seconds from now) says so, until closed.

    limit: requests in flight at most. Those due beyond it wait here, which their times count, and are told as
    `held`. timeout: seconds since a request was due until it counts as failed.
    """

    def __init__(
        self, clients: list[AsyncClient], arrivals: Iterator[float], limit: int, timeout: float
    ) -> None:
        self._clients, self._limit, self._timeout = clients, limit, timeout
        self._clock = time.perf_counter
        self._alarm = Alarm(self._ring)
        self._due: float | None = None  # the next arrival, seconds from self._zero
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, int]] = deque()  # due, part of the run
        self._in_flight = 0
        self._turn = 0
        self._part = WARMING
        self._end = float("inf")  # of the part that is measured
        self._open = 0  # arrivals of the measured part without an answer
        self._offered = [0, 0, 0]  # by part
        self._sent = 0  # of the measured part
        self._held = 0
        self._most = 0
        self._lag: dict[float, int] = {}  # milliseconds from due to sent, or to being held
        self._measured = {client.protocol: Outcomes() for client in clients}
        self._recent = {client.protocol: Outcomes() for client in clients}
        self._recent_lag: dict[float, int] = {}
        self._follow(arrivals)

    def begin(self, seconds: float, arrivals: Iterator[float]) -> None:
        """From now on for so many seconds it is measured; arrivals replace those before."""
        self._follow(arrivals, seconds)

    def report(self) -> dict[str, Any]:
        """What was measured so far, and under `recent` everything since the last report."""
        self._leave_when_over()
        recent, self._recent = self._recent, {name: Outcomes() for name in self._recent}
        lag, self._recent_lag = self._recent_lag, {}
        return {
            "part": self._part,
            "offered": self._offered[MEASURING],
            "offered_ever": sum(self._offered),
            "sent": self._sent,
            "held": self._held,
            "open": self._open,
            "in_flight": self._in_flight,
            "in_flight_most": self._most,
            "lag": self._lag,
            "protocols": {
                name: {"times": part.times, "errors": part.errors, "answers": part.answers}
                for name, part in self._measured.items()
            },
            "recent": {name: {"times": part.times, "errors": part.errors} for name, part in recent.items()},
            "recent_lag": lag,
        }

    async def close(self) -> None:
        self._alarm.close()
        self._due = None
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()

    def _follow(self, arrivals: Iterator[float], measured: float | None = None) -> None:
        self._zero, self._arrivals = self._clock(), arrivals
        if measured is not None:
            self._part, self._end = MEASURING, self._zero + measured
        self._due = next(arrivals, None)
        self._ring()

    def _ring(self) -> None:
        now = self._clock()
        started = 0
        while self._due is not None and self._zero + self._due <= now:
            self._offer(self._zero + self._due)
            self._due = next(self._arrivals, None)
            started += 1
            if started >= AT_ONCE:
                break
        if self._due is not None:
            self._alarm.set(self._zero + self._due - self._clock())

    def _offer(self, due: float) -> None:
        if due > self._end:
            self._part = AFTER
        self._offered[self._part] += 1
        if self._part == MEASURING:
            self._open += 1
        if self._in_flight >= self._limit:
            self._late(due, self._part)  # even if it has to wait, the schedule has to look at it in time
            self._waiting.append((due, self._part))
            self._held += self._part == MEASURING
        else:
            self._send(due, self._part, held=False)

    def _send(self, due: float, part: int, held: bool) -> None:
        self._in_flight += 1
        self._most = max(self._most, self._in_flight)
        self._turn += 1
        client = self._clients[self._turn % len(self._clients)]
        task = asyncio.create_task(self._one(client, due, part, held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, client: AsyncClient, due: float, part: int, held: bool) -> None:
        outcome, error = "success", None
        now = self._clock()
        if not held:
            self._late(due, part)
        try:
            if (left := self._timeout - (now - due)) <= 0:
                raise RequestFailed("timeout", "it waited for a place in flight until its time was over")
            self._sent += part == MEASURING
            await client.infer(left)
        except RequestFailed as failure:
            outcome, error = failure.outcome, str(failure)
        now = self._clock()
        milliseconds = (now - due) * 1000
        self._recent[client.protocol].add(outcome, milliseconds, error)
        measured = self._measured[client.protocol]
        if part == MEASURING:
            self._open -= 1
            measured.add(outcome, milliseconds, error)
        if error is None and self._part != WARMING and now <= self._end:
            measured.answers += 1
        self._in_flight -= 1
        while self._waiting and self._in_flight < self._limit:
            self._send(*self._waiting.popleft(), held=True)

    def _late(self, due: float, part: int) -> None:
        key = bucket((self._clock() - due) * 1000)
        self._recent_lag[key] = self._recent_lag.get(key, 0) + 1
        if part == MEASURING:
            self._lag[key] = self._lag.get(key, 0) + 1

    def _leave_when_over(self) -> None:
        """A loop that is behind still owes what was due by the end."""
        owes = self._due is not None and self._zero + self._due <= self._end
        if self._part == MEASURING and self._clock() > self._end and not owes:
            self._part = AFTER
