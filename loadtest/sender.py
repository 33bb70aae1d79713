"""The process beside a Locust worker that sends an open loop: gevent's loop and asyncio's can't share one.

Lines of JSON: the first one that it reads is an Order, then come {"begin": seconds, "trace": [...]}; it
writes a report of OpenLoop a line, every REPORT seconds. It ends with its standard input.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.arrivals import Profile, Stage, arrivals
from loadtest.payloads import ModelInterface
from loadtest.processor import Usage

ENDED = "the sender of the open loop ended"
REPORT = 0.5  # seconds between two reports
POISSON_WARM_UP = "poisson"  # before a trace begins, its mean rate comes


@dataclass(frozen=True)
class Order:
    """What one worker of an open loop sends. rate and stages are of all; index and of say which it is.

    arrival: constant, poisson or replay. connections: gRPC channels of this worker. limit: its requests in
    flight. timeout: seconds.
    """

    grpc_url: str
    http_url: str
    protocols: tuple[str, ...]
    interface: ModelInterface
    arrival: str
    rate: float
    stages: tuple[Stage, ...]
    connections: int
    limit: int
    timeout: float
    index: int
    of: int

    @classmethod
    def read(cls, line: str) -> Order:
        raw = json.loads(line)
        interface: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in raw["interface"].items()
        }
        return cls(
            **raw
            | {
                "interface": ModelInterface(**interface),
                "protocols": tuple(raw["protocols"]),
                "stages": tuple(Stage(**stage) for stage in raw["stages"]),
            }
        )

    def write(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    def arrivals(self, stages: tuple[Stage, ...] = ()) -> Iterator[float]:
        kind = POISSON_WARM_UP if self.arrival == "replay" else self.arrival
        return arrivals(kind, Profile(self.rate, stages), self.index, self.of)


class Sender:
    """That process, as a Locust worker (gevent) holds it.

    on_report takes each report; on_end is called with a reason if it ends by itself.
    """

    def __init__(
        self, order: Order, on_report: Callable[[dict[str, Any]], None], on_end: Callable[[str], None]
    ) -> None:
        import sys

        import gevent
        from gevent.subprocess import PIPE, Popen

        self._process = Popen([sys.executable, "-m", "loadtest.sender"], stdin=PIPE, stdout=PIPE, text=True)
        self._on_report, self._on_end = on_report, on_end
        self._stopped = False
        self._tell(order.write())
        self._reader = gevent.spawn(self._read)

    def begin(self, seconds: float, trace: list[float] | None = None) -> None:
        self._tell(json.dumps({"begin": seconds, "trace": trace}) + "\n")

    def stop(self) -> None:
        """Ends it; requests in flight are given up."""
        if self._stopped:
            return
        self._stopped = True
        self._process.terminate()
        self._process.wait()
        self._reader.kill()

    def _tell(self, line: str) -> None:
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended, which its output tells

    def _read(self) -> None:
        for line in self._process.stdout:
            self._on_report(json.loads(line))
        if not self._stopped:
            self._on_end(f"{ENDED} with status {self._process.wait()}")


async def _serve(order: Order) -> None:
    import asyncio
    import sys

    from loadtest.openloop import AsyncClient, AsyncGrpc, AsyncHttp, OpenLoop

    def client(protocol: str) -> AsyncClient:
        if protocol == "http":
            return AsyncHttp(order.http_url, order.interface.name, order.interface)
        return AsyncGrpc(order.grpc_url, order.connections, order.interface)

    loop = OpenLoop(
        [client(protocol) for protocol in order.protocols], order.arrivals(), order.limit, order.timeout
    )
    ended = asyncio.Event()

    def listen() -> None:
        line = sys.stdin.readline()
        if not line:
            ended.set()
            return
        told = json.loads(line)
        trace = told.get("trace")
        loop.begin(told["begin"], iter(trace) if trace is not None else order.arrivals(order.stages))

    asyncio.get_running_loop().add_reader(sys.stdin, listen)
    usage = Usage()
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), REPORT)
        except TimeoutError:
            report = loop.report()
            print(json.dumps(report | usage.read()), flush=True)
    await loop.close()


def main() -> None:
    """Takes its order from standard input."""
    import asyncio
    import gc
    import signal
    import sys

    line = sys.stdin.readline()
    if not line:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's to handle
    order = Order.read(line)
    import loadtest.openloop  # noqa: F401

    # A full collection would walk all of numpy and gRPC in the middle of the schedule.
    gc.collect()
    gc.freeze()
    asyncio.run(_serve(order))


if __name__ == "__main__":
    main()
