"""What a name server says about a name: how large the answer is, and whether it is all of it (RFC 1035)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

UDP_SIZE = 1232  # what resolvers announce since DNS Flag Day 2020, and gRPC's c-ares too
PORT = 53
_A, _OPT, _IN = 1, 41, 1


@dataclass(frozen=True)
class Answer:
    """bytes: of the whole message. truncated: more is to be had over TCP. addresses: in this message."""

    bytes: int
    truncated: bool
    addresses: int

    @classmethod
    def of(cls, message: bytes) -> Answer:
        _, flags, _, answers, _, _ = struct.unpack("!6H", message[:12])
        return cls(len(message), bool(flags & 0x0200), answers)


def question(name: str) -> bytes:
    """Asks for a name's IPv4 addresses, and announces UDP_SIZE."""
    labels = b"".join(struct.pack("B", len(part)) + part.encode() for part in name.rstrip(".").split("."))
    header = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 1)
    return (
        header
        + labels
        + b"\0"
        + struct.pack("!HH", _A, _IN)
        + b"\0"
        + struct.pack("!HHIH", _OPT, UDP_SIZE, 0, 0)
    )


def over_udp(server: str, name: str, timeout: float = 5) -> Answer:
    """Raises OSError where nothing answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(timeout)
        asking.sendto(question(name), (server, PORT))
        return Answer.of(asking.recv(65535))


def over_tcp(server: str, name: str, timeout: float = 5, port: int = PORT) -> Answer:
    """Raises OSError where nothing answers, or not all of it."""
    with socket.create_connection((server, port), timeout) as asking:
        asking.sendall(struct.pack("!H", len(question(name))) + question(name))
        (size,) = struct.unpack("!H", _exactly(asking, 2))
        return Answer.of(_exactly(asking, size))


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            raise OSError("the name server hung up within its answer")
        got += more
    return got
