"""A constant load over gRPC and HTTP at once, from the release's own load test, while a test acts.

Nobody retries: loadtest.clients gives gRPC no retry policy, and its HTTP client has none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from loadtest.api import LocustApi, Snapshot
from loadtest.run import REPORT, Settings, spawn, wait_for_turn, wait_for_workers
from model_tools.kube import Release, service_session

PATIENCE = 120.0  # seconds for requests to be answered


@dataclass
class Load:
    """A load that runs, since `first`."""

    api: LocustApi
    first: Snapshot

    def answered(self) -> dict[str, int]:
        """Requests since the start that have had an answer or failed, by protocol."""
        now = self.api.snapshot()
        return {name: count - self.first.requests.get(name, 0) for name, count in now.requests.items()}

    def go_on(self, requests: int) -> None:
        """Returns when that many more have been answered over each protocol."""
        aim = {name: count + requests for name, count in self.answered().items()}
        deadline = time.monotonic() + PATIENCE
        while any(self.answered()[name] < count for name, count in aim.items()):
            assert time.monotonic() < deadline, f"{self.answered()} answers in {PATIENCE:.0f} s, not {aim}"
            time.sleep(1)

    def failures(self) -> list[dict[str, Any]]:
        """Every kind of failure since the start: protocol, error, count."""
        time.sleep(REPORT)  # workers report once a second
        return self.api.snapshot().errors


def urls(release: Release) -> dict[str, str]:
    """Where clients in the cluster reach a release without TLS, by the names of Locust's options."""
    triton = f"{release.fullname}-triton"
    return {
        "grpc_url": f"dns:///{triton}-headless.{release.namespace}.svc:8001",
        "http_url": f"{triton}.{release.namespace}.svc:8000",
    }


@contextmanager
def constant_load(
    release: Release,
    requests_per_second: float,
    users: int,
    protocol: str = "both",
    target: Release | None = None,
) -> Iterator[Load]:
    """The load runs, every protocol has been answered, and the counters have been reset.

    target: the release that gets the requests, where it is not the one whose load test sends them.
    """
    settings = replace(
        Settings.from_values(release.values),
        users=users,
        spawn_rate=users,
        duration=900,
        protocol=protocol,
        arrival="constant",
        requests_per_second=requests_per_second,
    )

    def quiet(stage: str, part: float, shown: str) -> None:
        pass

    api = LocustApi(*service_session(release.namespace, f"{release.fullname}-loadtest", 8089))
    wait_for_workers(api, settings.workers, PATIENCE, quiet)
    wait_for_turn(api, True, PATIENCE, quiet)
    api.swarm({**settings.form, **(urls(target) if target else {})})
    try:
        spawn(api, settings, quiet)
        deadline = time.monotonic() + PATIENCE
        wanted = {"grpc", "http"} if protocol == "both" else {protocol}
        while {name for name, count in api.snapshot().requests.items() if count} != wanted:
            assert time.monotonic() < deadline, f"no answers over {wanted} in {PATIENCE:.0f} s"
            time.sleep(0.5)
        api.reset()
        time.sleep(REPORT)
        yield Load(api, api.snapshot())
    finally:
        api.stop()
        if target:  # Locust keeps what it was told last
            wait_for_turn(api, True, PATIENCE, quiet)
            few = replace(settings, users=2)
            api.swarm({**few.form, **urls(release)})
            spawn(
                api, few, quiet
            )  # a worker that is stopped while it spawns is told to quit, and starts anew
            api.stop()
