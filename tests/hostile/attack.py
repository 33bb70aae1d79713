"""Sends the grammar's cases to a stack, several at a time, beside a client that must lose nothing."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc

from .grammar import SERVICE, GrpcCase, HttpCase, grpc_case, http_case
from .stack import ROOT, Stack, resident

PATIENCE = 30.0  # seconds until a case without an answer counts as hung
HTTP_SENDERS, GRPC_SENDERS = 6, 4
# Answers of a proxy that got none from its server, and of a server that is gone.
LOST = {"502", "503", "504"}


@dataclass
class Found:
    """What a run sent and what came of it. problems: what a fence should have kept from happening."""

    seed: int
    cases: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes of Triton, after each tenth
    proxy_memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    witness: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0

    def growth(self) -> int:
        """Bytes that Triton holds more at the end than halfway."""
        return self.memory[-1] - self.memory[len(self.memory) // 2]

    def written(self) -> dict[str, Any]:
        """For people and machines."""
        return {
            "seed": self.seed,
            "cases": dict(sorted(self.cases.items())),
            "outcomes": dict(sorted(self.outcomes.items())),
            "problems": self.problems,
            "witness": self.witness,
            "triton_memory_mib": [size >> 20 for size in self.memory],
            "proxy_memory_mib": [size >> 20 for size in self.proxy_memory],
            "triton_open_files": self.files,
            "seconds": round(self.seconds, 1),
        }


def send(stack: Stack, case: HttpCase, address: str | None = None) -> str:
    """The status that came back, "closed" for none, "left" where it was not waited for, "hung"."""
    host, port = (address or stack.http).rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.settimeout(PATIENCE)
        try:
            client.sendall(case.data)
            if case.then == "half":
                client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the proxy has answered already, and closed
        if case.then == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if case.then in ("close", "reset"):
            return "left"
        try:
            answer = client.recv(4096)
        except TimeoutError:
            return "hung"
        except OSError:
            return "closed"
    line = answer.split(b"\r\n", 1)[0].split(b" ")
    if not answer:
        return "closed"
    return line[1].decode() if line[0].startswith(b"HTTP/") and len(line) > 1 else "no HTTP"


class Caller:
    """A gRPC client that sends bytes as they are."""

    def __init__(self, address: str) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            # Or the server's end of a connection loses what is large: docs/hostile-input.md.
            ("grpc.per_rpc_retry_buffer_size", 64 << 20),
        ]
        self._channel = grpc.insecure_channel(address, options)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def send(self, case: GrpcCase) -> str:
        """The status' name, or "hung". A cancelled call that ends otherwise has been quicker."""
        options = {
            "timeout": case.deadline,
            "metadata": case.metadata,
            "compression": grpc.Compression.Gzip if case.compressed else None,
        }
        over = threading.Event()
        if case.stream:
            call = self._channel.stream_stream(SERVICE + case.method)(_open(case, over), **options)
        else:
            call = self._channel.unary_unary(SERVICE + case.method).future(case.messages[0], **options)
        try:
            if case.leave is not None:
                over.wait(case.leave)
                call.cancel()
            if case.stream:
                for _ in call:
                    pass
            code = call.code()
        except grpc.RpcError as error:
            code = error.code()
        finally:
            over.set()
        if code == grpc.StatusCode.DEADLINE_EXCEEDED and case.deadline >= 1:
            return "hung"
        if code == grpc.StatusCode.UNAVAILABLE:
            details = call.details() or ""
            if "restricted" in details:
                return "restricted"
            # The connection reached its age. Whoever does no harm is to be spared that, and is asked.
            return "aged" if "GOAWAY" in details else f"UNAVAILABLE: {details[:200]}"
        return str(code.name)


def _open(case: GrpcCase, over: threading.Event) -> Iterator[bytes]:
    """The messages; a call that is to be left is not ended before."""
    yield from case.messages
    if case.leave is not None:
        over.wait(PATIENCE)


@contextmanager
def witnessed(stack: Stack, found: Found) -> Iterator[None]:
    """The client beside, in a process of its own: it is served before the block begins and until it ends."""
    command = [sys.executable, "-m", "tests.hostile.witness", stack.http, stack.grpc]
    witness = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        assert witness.stdout is not None
        assert witness.stdout.readline() == "ready\n", "the client beside did not start"
        yield
        said, _ = witness.communicate(timeout=60)
        found.witness = json.loads(said)
    finally:
        witness.kill()
        witness.wait()


def attack(
    stack: Stack,
    cases: int,
    seed: int,
    tick: Callable[[int], None] = lambda sent: None,
    only: str | None = None,
) -> Found:
    """Sends that many cases. Says in Found.problems what went wrong, each with the case's number.

    Case n of a seed is always the same one: even numbers are HTTP, odd ones gRPC. only: the protocol of those
    that are sent, half of all.
    """
    found = Found(seed)
    began = time.monotonic()
    lock = threading.Lock()
    numbers = {"http": iter(range(0, cases, 2)), "grpc": iter(range(1, cases, 2))}

    def note(number: int, kind: str, outcome: str, protocol: str) -> None:
        with lock:
            found.cases[f"{protocol} {kind}"] += 1
            found.outcomes[f"{protocol} {outcome.partition(':')[0]}"] += 1
            if outcome == "hung" or outcome in LOST or outcome.startswith("UNAVAILABLE"):
                found.problems.append(f"case {number} ({protocol} {kind}): {outcome}")
            sent = sum(found.cases.values())
            if sent % max(1, cases // (20 if only else 10)) == 0 and stack.alive():
                found.memory.append(stack.memory())
                found.proxy_memory.append(resident(stack.proxy))
                found.files.append(stack.files())
            if sent % 100 == 0:
                tick(sent)

    def each(protocol: str) -> Iterator[tuple[int, Random]]:
        while stack.alive() and len(found.problems) < 100:
            with lock:
                number = next(numbers[protocol], None)
            if number is None:
                return
            yield number, Random(f"{seed} {number}")

    def over_http() -> None:
        for number, random in each("http"):
            case = http_case(random)
            note(number, case.kind, send(stack, case), "http")

    def over_grpc() -> None:
        with Caller(stack.grpc) as caller:
            for number, random in each("grpc"):
                case = grpc_case(random)
                note(number, case.kind, caller.send(case), "grpc")

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a server that is gone, most of all
            with lock:
                found.problems.append(f"{type(error).__name__}: {error}")

    with witnessed(stack, found):
        works = [over_http] * (HTTP_SENDERS if only != "grpc" else 0)
        works += [over_grpc] * (GRPC_SENDERS if only != "http" else 0)
        threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if not stack.alive():
        found.problems.append("a server has ended; its log ends: " + " / ".join(stack.log[-3:]))
    for protocol, told in found.witness.items():
        if told["failed"]:
            found.problems.append(
                f"the client beside lost {told['failed']} of {told['sent']} over {protocol}: {told['why']}"
            )
    found.seconds = time.monotonic() - began
    return found


def summary(found: Found, file: Path | None = None) -> str:
    """One paragraph for people; all of it goes to the file."""
    if file:
        file.write_text(json.dumps(found.written(), indent=2) + "\n")
    beside = ", ".join(
        f"{told['sent']} over {name}, {told['failed']} lost" for name, told in found.witness.items()
    )
    return (
        f"{sum(found.cases.values())} cases in {found.seconds:.0f} s, {len(found.problems)} problems;"
        f" beside them {beside}; Triton {found.memory[0] >> 20} to {found.memory[-1] >> 20} MiB,"
        f" {found.files[0]} to {found.files[-1]} files"
    )
