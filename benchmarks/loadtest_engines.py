"""How many requests one process gets answered that does nothing but send: gRPC under gevent, or grpc.aio.

    python -m benchmarks.loadtest_engines gevent|aio HOST:PORT IN_FLIGHT SECONDS

prints {"rate": requests a second, "cost": processor time for one in seconds}. A part of loadtest_rate.py,
which starts each engine in a process of its own: gevent changes the process that it is in. Both send the load
test's own prebuilt requests, over 8 connections, and check the answers as it does.
"""

from __future__ import annotations

import sys

CONNECTIONS = 8


def under_gevent(address: str, in_flight: int, seconds: float) -> int:
    import time

    import gevent

    from benchmarks.loadtest_parts import INTERFACE, SMALL
    from loadtest.clients import GrpcClient

    clients = [GrpcClient(address, SMALL, 30, INTERFACE) for _ in range(CONNECTIONS)]
    (request, *_) = GrpcClient.build(INTERFACE)
    clients[0].infer(request)
    end = time.perf_counter() + seconds
    counts = [0] * in_flight

    def user(index: int) -> None:
        client = clients[index % CONNECTIONS]
        while time.perf_counter() < end:
            client.infer(request)
            counts[index] += 1

    gevent.joinall([gevent.spawn(user, index) for index in range(in_flight)])
    return sum(counts)


def with_aio(address: str, in_flight: int, seconds: float) -> int:
    import asyncio
    import time

    from benchmarks.loadtest_parts import INTERFACE
    from loadtest.openloop import AsyncGrpc

    async def users() -> int:
        client = AsyncGrpc(address, CONNECTIONS, INTERFACE)
        await client.infer(30)
        end = time.perf_counter() + seconds
        counts = [0] * in_flight

        async def user(index: int) -> None:
            while time.perf_counter() < end:
                await client.infer(30)
                counts[index] += 1

        await asyncio.gather(*(user(index) for index in range(in_flight)))
        await client.close()
        return sum(counts)

    return asyncio.run(users())


def main() -> None:
    engine, address, in_flight, seconds = sys.argv[1:]
    if engine == "gevent":
        from gevent import monkey

        monkey.patch_all()
        from grpc.experimental.gevent import init_gevent

        init_gevent()
    import json
    import time

    send = under_gevent if engine == "gevent" else with_aio
    cpu = time.process_time()
    count = send(address, int(in_flight), float(seconds))
    print(json.dumps({"rate": count / float(seconds), "cost": (time.process_time() - cpu) / max(1, count)}))


if __name__ == "__main__":
    main()
