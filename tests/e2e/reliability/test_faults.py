"""What breaks below a release costs the requests that were in it, and no others for long.

Two pods on two nodes answer a constant load over gRPC and HTTP; no client sends anything twice. Each test states
its promise, does the harm, and reads from the clients which requests failed and until when, and from Prometheus
whether pods were taken out of service.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from . import node as harm
from .record import Row
from .sender import Sender, Sent, sending, stream
from .service import NAMESPACE, VALUES, Service, run, until

pytestmark = pytest.mark.timeout(900)

RATE = 10.0  # requests a second over each protocol: a tenth of what a pod can answer
BEFORE, AFTER = 5, 10  # seconds of load around all that a test does
EXECUTION = VALUES["triton"]["executionSeconds"]
# The kubelet's look (1 s), its word to the API server, the endpoints, kube-proxy; on a busy machine.
TOLD = 6
# files/watch-models.lua: quiet for 5 s, then a request that may live; then three probes, every 5 s.
NOTICED = 5 + 2 + (1 + EXECUTION) + 15 + TOLD


@dataclass
class Scene:
    """What a harm has to work with."""

    service: Service
    pod: dict[str, Any]  # the one that is hurt
    sender: Sender
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    def whole(self, timeout: float) -> None:
        """Returns when two pods are ready, and notes when that was."""
        self.service.settle(2, timeout)


@dataclass(frozen=True)
class Fault:
    """A harm and what was promised of it.

    harm returns when the harm is over and the release is whole again. may_fail says which requests may fail,
    most how many of them (of those sent in its time at the full rate: a share), for_seconds until when.
    """

    name: str
    fault: str
    promise: str
    may_fail: str
    harm: Callable[[Scene], None]
    for_seconds: float = 0
    share: float = 0  # of the requests in for_seconds
    takes_pods_out: bool = True
    timeout: float = 10

    @property
    def most(self) -> int:
        return int(2 * RATE * self.for_seconds * self.share)


def kill_triton(scene: Scene) -> None:
    before = scene.service.restarts()[scene.name]
    os.kill(harm.triton(scene.pod), signal.SIGKILL)
    until(lambda: scene.service.restarts()[scene.name] == before + 1, "Triton's restart", 60)
    scene.whole(120)


def kill_an_instance(scene: Scene) -> None:
    before = scene.service.restarts()[scene.name]
    os.kill(harm.stubs(scene.pod)[0], signal.SIGKILL)
    until(lambda: scene.service.restarts()[scene.name] == before + 1, "Triton's restart", 60)
    scene.whole(120)


def run_out_of_memory(scene: Scene) -> None:
    before = scene.service.restarts()[scene.name]
    run("exec", scene.name, "--container", "triton", "--", "touch", "/tmp/leak")
    until(lambda: not harm.in_pod(scene.pod, "tritonserver"), "Triton's end", 120)
    (Path(f"/proc/{scene.service and 1}")).exists()
    until(lambda: scene.service.restarts()[scene.name] > before, "Triton's restart", 60)
    # /tmp outlives the container: a leak that came back would be another test's.
    run("exec", scene.name, "--container", "proxy", "--", "true")
    scene.whole(180)


def hang_in_a_batch(scene: Scene) -> None:
    before = scene.service.restarts()[scene.name]
    run("exec", scene.name, "--container", "triton", "--", "touch", "/tmp/hang")
    until(lambda: scene.service.restarts()[scene.name] > before, "Triton's restart", 3 * EXECUTION + 60)
    scene.whole(120)


FAULTS = [
    Fault(
        "triton-killed",
        "SIGKILL to Triton in one pod",
        "the other pod takes over",
        "what was in the pod, and HTTP requests on connections to it until its endpoint is gone",
        kill_triton,
        for_seconds=TOLD,
        share=0.6,
    ),
    Fault(
        "instance-killed",
        "SIGKILL to the process of one model instance",
        "Triton ends and starts anew, instead of failing what it gives to that instance for ever",
        "the batch in the instance; then as for Triton killed",
        kill_an_instance,
        for_seconds=TOLD + 2,
        share=0.6,
    ),
    Fault(
        "instance-hangs",
        "every instance of one pod stands still within a batch",
        "a batch that lasts longer than triton.executionSeconds ends Triton, which starts anew",
        "what the pod got until then: half of the requests for executionSeconds, its exit and TOLD",
        hang_in_a_batch,
        for_seconds=2 * EXECUTION + 3 + TOLD,
        share=0.6,
    ),
]


@pytest.fixture(scope="module", autouse=True)
def two_pods(service: Service) -> None:
    harm.embedded()
    service.scale(2)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, service: Service, record: Callable[[Row], None]) -> None:
    service.settle(2)
    suffer(fault, service, record)


def suffer(fault: Fault, service: Service, record: Callable[[Row], None]) -> None:
    load = (stream("grpc", (3600, RATE)), stream("http", (3600, RATE)))
    with sending(service, *load, timeout=fault.timeout) as sender:
        time.sleep(BEFORE)  # what is measured: a load without harm
        scene = Scene(service, service.pods()[0], sender)
        began = time.time()
        fault.harm(scene)
        whole = time.time() - began
        time.sleep(AFTER)
        sent = sender.stop()
        ended = time.time()
    row = Row(
        fault.name, "faults", fault.promise, fault.fault, f"{RATE:.0f} requests/s over each protocol, 2 pods",
        counts(sent, sent.ok | sent.failed), counts(sent, sent.failed), fault.may_fail,
        recovered(sent, began), whole, sent.kinds(), scene.notes,
    )  # fmt: skip
    record(row)
    before = sent.during(0, began - fault.timeout)
    assert not sent.kinds(before), "requests failed before there was any harm"
    assert sum(row.failed.values()) <= fault.most, f"{row.failed} failed, and {fault.most} may: {row.kinds}"
    assert row.recovered <= fault.for_seconds, (
        f"the last failure was sent {row.recovered:.1f} s after the harm"
    )
    # A load that stood still would lose nothing either.
    expected = RATE * (ended - began)
    assert all(count > 0.7 * expected for count in row.sent.values()), f"{row.sent}, not {expected:.0f} each"
    least = fewest_pods(service, began, ended)
    assert (least < 2) == fault.takes_pods_out, f"Prometheus saw {least} pods in service"


def counts(sent: Sent, which: Any) -> dict[str, int]:
    return {protocol: int((sent.over(protocol) & which).sum()) for protocol in ("grpc", "http")}


def recovered(sent: Sent, began: float) -> float:
    """Seconds from the harm until the last request was sent that failed; 0 where none did."""
    late = sent.at[sent.failed & sent.during(began)]
    return round(float(late.max() - began), 1) if len(late) else 0.0


def fewest_pods(service: Service, began: float, ended: float) -> int:
    """The fewest pods that Prometheus saw ready meanwhile, by the counters that reached it and the API's word."""
    what = f'kube_deployment_status_replicas_ready{{namespace="{NAMESPACE}"}}'
    time.sleep(6)  # the last scrape of that time
    found = service.prometheus(f"min_over_time({what}[{ended - began + 1:.0f}s])", at=ended + 5)
    assert found, f"Prometheus has no {what}"
    return int(float(found[0]["value"][1]))
