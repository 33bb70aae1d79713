"""`python client.py SETTINGS` in a pod: an open load over gRPC and HTTP; every request is written down.

An open load sends when a request is due, whatever became of those before it: a server that stands still is
asked on, as by many users who don't know of each other. Nobody retries. SETTINGS is JSON:

    model, grpc, http   name of the model, target of the channels, URL
    timeout             seconds until a request is given up
    streams             a list of {name, protocol, steps, priority}: steps are [seconds, requests a second],
                        one after the other; priority is Triton's, 0 states none
    stop                a file: once it is there nothing more is sent

Arrivals are random with that mean rate (a Poisson process, seeded by the stream's name). Standard output: a
line "ready" when every stream has had an answer, then one line of JSON:

    began      the Unix time that `sent` counts from
    outcomes   every kind of outcome: "ok" or code and message
    requests   [stream, sent, late, seconds, outcome] a request: when it was sent, how late that was, how long
               it took, all in seconds; stream and outcome are indices
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

CHANNELS = 4  # a gRPC stream: as many clients, each balancing over all pods
CATCH = 120.0  # seconds for a first answer


class Failed(Exception):
    """One request's failure, by code and message."""


class Grpc:
    """A few channels, used in turn."""

    def __init__(self, settings: dict[str, Any], message: bytes) -> None:
        import grpc.aio
        from tritonclient.grpc import service_pb2

        # As loadtest.clients has them: a channel of its own each, all addresses of the name, asked for anew.
        options = [
            ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.dns_min_time_between_resolutions_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 5000),
            *(tuple(option) for option in settings.get("options", [])),
        ]
        self.channels = [grpc.aio.insecure_channel(settings["grpc"], options) for _ in range(CHANNELS)]
        self.calls = [
            channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                response_deserializer=service_pb2.ModelInferResponse.FromString,
            )
            for channel in self.channels
        ]
        self.message, self.timeout, self.next = message, settings["timeout"], 0

    async def infer(self) -> bytes:
        import grpc

        self.next = (self.next + 1) % CHANNELS
        try:
            answer = await self.calls[self.next](self.message, timeout=self.timeout)
        except grpc.RpcError as error:
            raise Failed(f"{error.code().name} {error.details()}") from None
        return bytes(answer.raw_output_contents[0]) if answer.raw_output_contents else b""

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


class Http:
    """Kept-alive connections, as many as requests are under way."""

    def __init__(self, settings: dict[str, Any], body: bytes, headers: dict[str, str]) -> None:
        import aiohttp

        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=settings["timeout"]),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        )
        self.url = f"{settings['http']}/v2/models/{settings['model']}/infer"
        self.body, self.headers = body, headers

    async def infer(self) -> bytes:
        import aiohttp

        try:
            async with self.session.post(self.url, data=self.body, headers=self.headers) as answer:
                content = await answer.read()
                if answer.status != 200:
                    raise Failed(f"{answer.status} {content[:100].decode(errors='replace')}")
                return content[int(answer.headers["Inference-Header-Content-Length"]) :]
        except TimeoutError:
            raise Failed("DEADLINE no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failed(f"CONNECTION {type(error).__name__} {error}") from None

    async def close(self) -> None:
        await self.session.close()


def metadata(settings: dict[str, Any]) -> dict[str, Any]:
    """The model's, when the server first answers."""
    import urllib.request

    deadline = time.monotonic() + CATCH
    while True:
        try:
            with urllib.request.urlopen(
                f"{settings['http']}/v2/models/{settings['model']}", timeout=5
            ) as found:
                return dict(json.load(found))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def client(settings: dict[str, Any], stream: dict[str, Any]) -> Grpc | Http:
    """Sends one real picture again and again: bytes are put together once."""
    from loadtest.payloads import ModelInterface, pictures

    interface = ModelInterface.from_metadata(settings["metadata"])
    pixels = pictures(interface)[0]
    priority = stream.get("priority", 0)
    if stream["protocol"] == "grpc":
        from tritonclient.grpc import service_pb2

        message = service_pb2.ModelInferRequest(model_name=interface.name)
        message.inputs.add(
            name=interface.input_name, datatype=interface.input_type, shape=interface.input_shape
        )
        message.outputs.add(name=interface.output_name)
        message.raw_input_contents.append(pixels.tobytes())
        if priority:
            message.parameters["priority"].uint64_param = priority
        return Grpc(settings, message.SerializeToString())
    described = {
        "inputs": [
            {
                "name": interface.input_name,
                "datatype": interface.input_type,
                "shape": list(interface.input_shape),
                "parameters": {"binary_data_size": pixels.nbytes},
            }
        ],
        "outputs": [{"name": interface.output_name, "parameters": {"binary_data": True}}],
        **({"parameters": {"priority": priority}} if priority else {}),
    }
    head = json.dumps(described).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return Http(settings, head + pixels.tobytes(), headers)


class Load:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.stop = Path(settings["stop"])
        self.began = time.monotonic()
        self.outcomes: dict[str, int] = {"ok": 0}
        self.requests: list[list[float]] = []
        self.wanted: bytes = b""

    async def run(self) -> dict[str, Any]:
        self.settings["metadata"] = await asyncio.to_thread(metadata, self.settings)
        streams = self.settings["streams"]
        clients = [client(self.settings, stream) for stream in streams]
        for each in clients:
            self.wanted = await self.first_answer(each)
        print("ready", flush=True)
        began = time.time()
        self.began = time.monotonic()
        await asyncio.gather(*(self.send(number, clients[number]) for number in range(len(streams))))
        for each in clients:
            await each.close()
        return {"began": began, "outcomes": list(self.outcomes), "requests": self.requests}

    async def first_answer(self, to: Grpc | Http) -> bytes:
        deadline = time.monotonic() + CATCH
        while True:
            try:
                return await to.infer()
            except Failed:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.5)

    async def send(self, number: int, to: Grpc | Http) -> None:
        stream = self.settings["streams"][number]
        chance = random.Random(stream["name"])
        under_way: set[asyncio.Task[None]] = set()
        step_began = 0.0
        for seconds, rate in stream["steps"]:
            due = step_began
            while not self.stop.exists():
                due += chance.expovariate(rate) if rate else seconds
                if due >= step_began + seconds:
                    break
                await asyncio.sleep(max(0.0, due - self.now()))
                task = asyncio.create_task(self.one(number, to, due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            step_began += seconds
            if self.stop.exists():
                break
            await asyncio.sleep(max(0.0, step_began - self.now()))
        await asyncio.gather(*under_way)

    async def one(self, number: int, to: Grpc | Http, due: float) -> None:
        sent = self.now()
        try:
            answer = await to.infer()
            outcome = "ok" if answer == self.wanted else "WRONG another answer to the same picture"
        except Failed as failure:
            outcome = " ".join(str(failure).split())[:160]
        took = self.now() - sent
        place = self.outcomes.setdefault(outcome, len(self.outcomes))
        self.requests.append([number, round(sent, 4), round(sent - due, 4), round(took, 4), place])

    def now(self) -> float:
        return time.monotonic() - self.began


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Load(json.loads(sys.argv[1])).run())), flush=True)
