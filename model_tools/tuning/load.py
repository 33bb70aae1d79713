"""A load on a Triton of this machine, from this process: requests prebuilt, answers timed as they arrive.

The load test in the cluster is Locust's (`loadtest/`); this one starts in milliseconds, for measurements of
seconds.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from model_tools.console import BadInput, CheckFailed

SPAN = 0.25  # seconds; a load's warm-up is found in counts over such spans
CHANNELS = 4  # connections that the requests are spread over
TIMEOUT = 60.0  # seconds for one request


@dataclass
class Answers:
    """Every answer of a load, as (when it came, how long it took) in seconds, on the clock of `began`.

    Latencies of an open loop count from when a request was due, whether or not it could be sent then.
    """

    began: float
    arrived: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sent: int = 0

    def counts(self, until: float) -> list[float]:
        """Answers in each whole SPAN from the beginning on."""
        spans = int((until - self.began) / SPAN)
        found = [0.0] * spans
        for when, _ in list(self.arrived):
            place = int((when - self.began) / SPAN)
            if place < spans:
                found[place] += 1
        return found

    def between(self, start: float, end: float) -> tuple[float, list[float]]:
        """Answers a second in that time, and their latencies, ascending. Raises CheckFailed for too few.

        The time is cut to whole gaps between answers: those of a batch come together, and the edges of the
        window would count one batch more or less.
        """
        arrived = sorted(self.arrived)
        before = [when for when, _ in arrived if when <= start]
        inside = [(when, latency) for when, latency in arrived if start < when <= end]
        if not before or not inside:
            raise CheckFailed(f"{len(inside)} answers in {end - start:.1f} s: measure for longer")
        return len(inside) / (inside[-1][0] - before[-1]), sorted(latency for _, latency in inside)


class Sender:
    """Sends one model's pictures to `address` (host:port) over gRPC. A context manager.

    Raises BadInput where the model is no picture model, or its server does not answer.
    """

    def __init__(self, address: str, model: str) -> None:
        # Other Tritons are started while this one's channels are open, and what gRPC does at a fork on its
        # own behalf has ended the new process before it was one.
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
        import grpc

        from loadtest.clients import GrpcClient, RequestFailed
        from loadtest.payloads import ModelInterface

        client = GrpcClient(address, model, TIMEOUT)
        try:
            interface = ModelInterface.from_metadata(client.metadata())
        except RequestFailed as failure:
            raise BadInput(f"{address}: {failure}") from None
        finally:
            client.close()
        self._requests = GrpcClient.build(interface)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channels = [grpc.insecure_channel(address, options) for _ in range(CHANNELS)]
        self._calls = [
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer") for channel in self._channels
        ]
        self._check(interface)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()

    def closed(self, users: int, enough: Callable[[Answers], bool]) -> Answers:
        """Keeps `users` requests at the server until `enough` says so, asked every SPAN."""
        slots = threading.Semaphore(users)
        answers = Answers(time.perf_counter())
        asked = answers.began
        while True:
            slots.acquire()
            now = time.perf_counter()
            if answers.errors:
                break
            if now - asked >= SPAN:
                asked = now
                if enough(answers):
                    break
            self._send(answers, now, slots.release)
        slots.release()
        self._drain(slots, users)
        return answers

    def open(self, rate: float, enough: Callable[[Answers], bool], seed: int = 0) -> Answers:
        """Sends `rate` requests a second at random times (Poisson), however long answers take."""
        arrivals = random.Random(seed)
        landed = threading.Semaphore(0)
        answers = Answers(time.perf_counter())
        due, asked = answers.began, answers.began
        while not answers.errors:
            due += arrivals.expovariate(rate)
            time.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            if now - asked >= SPAN:
                asked = now
                if enough(answers):
                    break
            self._send(answers, due, landed.release)
        self._drain(landed, answers.sent)
        return answers

    def _send(self, answers: Answers, since: float, done: Callable[[], None]) -> None:
        place = answers.sent
        answers.sent += 1
        call = self._calls[place % len(self._calls)]
        future = call.future(self._requests[place % len(self._requests)], timeout=TIMEOUT)

        def arrived(answer: Any) -> None:
            now = time.perf_counter()
            error = answer.exception()
            if error is None:
                answers.arrived.append((now, now - since))
            else:
                answers.errors.append(f"{error.code().name}: {error.details()}")
            done()

        future.add_done_callback(arrived)

    def _drain(self, slots: threading.Semaphore, count: int) -> None:
        for _ in range(count):
            if not slots.acquire(timeout=TIMEOUT + 10):
                raise CheckFailed("requests are neither answered nor refused")

    def _check(self, interface: Any) -> None:
        """One answer is looked at: Triton can answer in time, and with nothing."""
        import grpc
        import numpy as np
        from tritonclient.grpc import service_pb2

        from loadtest.payloads import NUMPY_TYPES, WrongAnswer, check_answer

        try:
            answer = service_pb2.ModelInferResponse.FromString(
                self._calls[0](self._requests[0], timeout=TIMEOUT)
            )
            values = np.frombuffer(answer.raw_output_contents[0], NUMPY_TYPES[answer.outputs[0].datatype])
            check_answer(interface, tuple(answer.outputs[0].shape), values)
        except grpc.RpcError as error:
            raise CheckFailed(f"{interface.name}: {error.details()}") from None
        except (WrongAnswer, IndexError) as error:
            raise CheckFailed(f"{interface.name}: {error}") from None
