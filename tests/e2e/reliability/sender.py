"""An open load from a pod of the namespace, and what became of each of its requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..volumes import tools_image
from ..waiting import until
from .service import FULLNAME, NAMESPACE, Service, restricted, run

POD = "sender"
MOST = 3600  # seconds that a load goes on if nobody stops it


def stream(protocol: str, *steps: tuple[float, float], name: str = "", priority: int = 0) -> dict[str, Any]:
    """Requests over a protocol: steps of (seconds, requests a second), one after the other."""
    return {"name": name or protocol, "protocol": protocol, "steps": steps, "priority": priority}


@dataclass
class Sent:
    """Every request of a load, in the order of their ends; times in seconds, `at` is Unix time."""

    streams: list[dict[str, Any]]
    outcomes: list[str]
    stream: np.ndarray
    at: np.ndarray
    late: np.ndarray
    took: np.ndarray
    outcome: np.ndarray
    began: float

    @property
    def ok(self) -> np.ndarray:
        return self.outcome == self.outcomes.index("ok")

    @property
    def failed(self) -> np.ndarray:
        return ~self.ok

    def of(self, name: str) -> np.ndarray:
        """Which requests are of a stream."""
        names = [each["name"] for each in self.streams]
        return self.stream == names.index(name)

    def over(self, protocol: str) -> np.ndarray:
        return np.isin(
            self.stream, [n for n, each in enumerate(self.streams) if each["protocol"] == protocol]
        )

    def during(self, begin: float, end: float = np.inf) -> np.ndarray:
        """Which were sent between two Unix times."""
        return (self.at >= begin) & (self.at < end)

    def ended(self, begin: float, end: float) -> np.ndarray:
        """Which were answered, or failed, between two Unix times."""
        return (self.at + self.took >= begin) & (self.at + self.took < end)

    def kinds(self, which: np.ndarray | None = None) -> dict[str, int]:
        """How many requests failed of each kind, the address of a pod and of a port left out."""
        import re

        chosen = self.failed if which is None else self.failed & which
        found: dict[str, int] = {}
        for number in self.outcome[chosen]:
            kind = re.sub(r"\d+\.\d+\.\d+\.\d+(:\d+)?|\[Errno \w+\] ", "", self.outcomes[int(number)])[:90]
            found[kind] = found.get(kind, 0) + 1
        return found


@dataclass
class Sender:
    """A load that runs in its pod; `sent` is there when it has ended."""

    streams: list[dict[str, Any]]
    sent: Sent | None = None
    began: float = field(default_factory=time.time)

    def log(self) -> list[str]:
        return run("logs", POD).splitlines()

    def phase(self) -> str:
        return run("get", "pod", POD, "--output", "jsonpath={.status.phase}")

    def wait(self, timeout: float) -> Sent:
        """Everything that was sent, once nothing more is."""
        until(lambda: self.phase() in ("Succeeded", "Failed"), "the end of the load", timeout)
        lines = self.log()
        assert self.phase() == "Succeeded", "\n".join(lines[-20:])
        said = json.loads(lines[-1])
        columns = np.array(said["requests"], dtype=float).reshape(-1, 5).T
        self.sent = Sent(
            self.streams, said["outcomes"], columns[0].astype(int), said["began"] + columns[1], columns[2],
            columns[3], columns[4].astype(int), said["began"],
        )  # fmt: skip
        return self.sent

    def stop(self, timeout: float = 60) -> Sent:
        run("exec", POD, "--", "touch", "/tmp/stop")
        return self.wait(timeout)


@contextmanager
def sending(service: Service, *streams: dict[str, Any], timeout: float = 10) -> Iterator[Sender]:
    """The load, once every stream of it has had an answer.

    timeout: seconds after which a client gives a request up.
    """
    settings = {
        "model": service.values["model"]["name"],
        "grpc": f"dns:///{FULLNAME}-triton-headless.{NAMESPACE}.svc:8001",
        "http": f"http://{FULLNAME}-triton.{NAMESPACE}.svc:8000",
        "timeout": timeout,
        "streams": streams,
        "stop": "/tmp/stop",
    }
    pod = restricted(
        POD,
        tools_image(service.release),
        ["python", "/client/client.py", json.dumps(settings)],
        cpu="500m",  # its share of a busy machine
        mounts=[{"name": "client", "mountPath": "/client"}],
        volumes=[{"name": "client", "configMap": {"name": "client"}}],
    )
    run("delete", "pod", POD, "--ignore-not-found", "--wait")
    run("apply", "--filename", "-", given=pod)
    try:
        sender = Sender(list(streams))

        def ready() -> bool:
            phase = sender.phase()
            assert phase in ("Pending", "Running"), "\n".join(sender.log()[-20:])
            return phase == "Running" and "ready" in sender.log()

        until(ready, "a first answer to every stream", 120)
        yield sender
    finally:
        run("delete", "pod", POD, "--ignore-not-found", "--wait")
