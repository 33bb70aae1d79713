"""What breaks below a release costs the requests that were in it, and no others for long.

Two pods on two nodes answer a constant load over gRPC and HTTP; no client sends anything twice. Each test
states its promise, does the harm, and reads from the clients which requests failed and until when, and from
Prometheus whether pods were taken out of service.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb

from cluster import control, preflight, shell, volumes
from cluster.control import CONTROL_PLANE

from ..helm import kubectl
from ..waiting import until
from . import node as harm
from .record import Row
from .sender import Sent, sending, stream
from .service import DEPLOYMENT, NAMESPACE, VALUES, Service, config_map, run

pytestmark = pytest.mark.timeout(900)

RATE = 10.0  # requests a second over each protocol: a tenth of what a pod can answer
BEFORE, AFTER = 5, 10  # seconds of load around all that a test does
EXECUTION = VALUES["triton"]["executionSeconds"]
PRELOADED = "/opt/tritonserver/lib/preload.so"  # by the images
# The kubelet looks every second and tells the API server, whose endpoints reach kube-proxy: 2 s, or on a
# where everything waits for a processor several times that.
TOLD = 15
# files/watch-models.lua: quiet for 5 s, then a request that may live; then three probes, every 5 s.
NOTICED = 5 + 2 + (1 + EXECUTION) + 15 + TOLD


@dataclass
class Scene:
    """What a harm has to work with."""

    service: Service
    pod: dict[str, Any]  # the one that is hurt
    began: float
    notes: dict[str, float] = field(default_factory=dict)

    def since(self) -> float:
        return round(time.time() - self.began, 1)

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
    takes_pods_out: bool | None = True  # None: Prometheus can't say
    clean_up: Callable[[Service], None] = lambda service: None  # once the load has ended
    nightly: bool = False

    @property
    def most(self) -> int:
        return int(2 * RATE * self.for_seconds * self.share)


def kill(process: Callable[[Any], int], by: signal.Signals = signal.SIGKILL) -> Callable[[Scene], None]:
    """Ends a process of the pod, or stops it for good, and with it Triton."""

    def harmed(scene: Scene) -> None:
        before = scene.service.restarts()[scene.name]
        os.kill(process(scene.pod), by)
        until(lambda: scene.service.restarts()[scene.name] == before + 1, "Triton's restart", 60)
        scene.whole(120)

    return harmed


def stop_triton(scene: Scene) -> None:
    """Until the kubelet, two minutes later, starts it anew."""
    before = scene.service.restarts()[scene.name]
    with harm.stopped(harm.triton(scene.pod)):
        until(lambda: scene.service.ready() < 2, "a pod that is not ready", NOTICED)
        scene.notes["not ready after, s"] = scene.since()
        until(lambda: scene.service.restarts()[scene.name] > before, "Triton's restart", 300)
    scene.whole(120)


def ask_the_model(to: str, ends_within: float, whole_within: float) -> Callable[[Scene], None]:
    """The model's own doing, on a file that it finds: to `leak` memory, or to `hang` within a batch."""

    def harmed(scene: Scene) -> None:
        before = scene.service.restarts()[scene.name]
        in_triton(scene, "touch", f"/tmp/{to}")
        # /tmp outlives the container: one that starts would do it again.
        until(lambda: not harm.in_pod(scene.pod, "tritonserver"), "Triton's end", ends_within)
        until(lambda: scene.service.restarts()[scene.name] > before, "Triton's restart", 60)
        until(lambda: in_triton(scene, "rm", "-f", f"/tmp/{to}"), f"the {to}'s end", 60)
        scene.whole(whole_within)

    return harmed


def leave_streams(scene: Scene) -> None:
    """Streams that a client cancels after a request that is refused: Triton keeps them, and the request."""
    before = scene.service.restarts()[scene.name]
    left = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield pb.ModelInferRequest(model_name="no such model", raw_input_contents=[bytes(1 << 20)])
        left.wait(60)

    with grpc.insecure_channel(f"{scene.pod['status']['podIP']}:8001") as channel:
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
        )
        # Slower than the pod looks at its memory.
        for _ in range(200):
            if in_triton(scene, "test", "-e", "/state/full"):
                break
            left.clear()
            calls = [stream(requests()) for _ in range(8)]
            for call in calls:
                assert next(call)
                call.cancel()
            left.set()
            time.sleep(1)
    scene.notes["full after, s"] = scene.since()
    until(lambda: scene.service.ready() < 2, "a pod that is not ready", NOTICED)
    scene.notes["not ready after, s"] = scene.since()
    until(lambda: scene.service.restarts()[scene.name] > before, "Triton's restart", 300)
    scene.whole(120)
    (ended,) = (
        each["lastState"]["terminated"]
        for pod in scene.service.pods() if pod["metadata"]["name"] == scene.name
        for each in pod["status"]["containerStatuses"] if each["name"] == "triton"
    )  # fmt: skip
    assert ended["reason"] != "OOMKilled", ended


def an_instance(pod: Any) -> int:
    return harm.stubs(pod)[0]


def in_triton(scene: Scene, *command: str) -> bool:
    arguments = ("exec", scene.name, "--container", "triton", "--", *command)
    return kubectl(*arguments, namespace=NAMESPACE).returncode == 0


def lose_a_node(scene: Scene) -> None:
    node = harm.node_of(scene.pod)
    harm.kill_node(node)
    until(lambda: scene.service.ready() < 2, "a pod that is not ready", 120)
    scene.notes["not ready after, s"] = scene.since()
    time.sleep(15)  # of service on the other node alone
    harm.bring_back()
    scene.whole(240)


def stop_the_kubelet(scene: Scene) -> None:
    """Long enough for the node to count as lost, while its pods serve on."""
    with harm.stopped(harm.daemon(harm.node_of(scene.pod), "kubelet")):
        until(lambda: scene.service.ready() < 2, "a node that counts as lost", 120)
        scene.notes["not ready after, s"] = scene.since()
        time.sleep(15)
    scene.whole(120)


def stop_containerd(scene: Scene) -> None:
    with harm.stopped(harm.daemon(harm.node_of(scene.pod), "containerd")):
        time.sleep(45)
    scene.whole(120)


def lose_packets(scene: Scene) -> None:
    with harm.losing_packets(harm.node_of(scene.pod), 0.02):
        time.sleep(30)
    scene.whole(60)


def narrow_the_link(scene: Scene) -> None:
    with harm.narrow(harm.node_of(scene.pod), "16mbit"):
        time.sleep(30)
    scene.whole(60)


def take_dns_away(scene: Scene) -> None:
    with scaled_down("deployment/coredns", "kube-system", 1):
        time.sleep(40)
    scene.whole(60)


def take_prometheus_away(scene: Scene) -> None:
    with scaled_down("prometheus/prometheus", "monitoring", 1):
        time.sleep(40)
    until(scene.service.watched, "a Prometheus that answers", 180)
    scene.whole(60)


@contextmanager
def scaled_down(what: str, namespace: str, replicas: int) -> Iterator[None]:
    """Nothing runs of it in the block, and all of it again afterwards."""

    def scale(number: int) -> None:
        patch = f'{{"spec": {{"replicas": {number}}}}}'
        done = kubectl("patch", what, "--type=merge", "--patch", patch, namespace=namespace)
        assert done.returncode == 0, done.stderr

    label = {"deployment/coredns": "k8s-app=kube-dns"}.get(what, "app.kubernetes.io/name=prometheus")

    def running() -> int:
        found = kubectl("get", "pods", "--selector", label, "--output", "name", namespace=namespace)
        return len(found.stdout.split())

    scale(0)
    try:
        until(lambda: not running(), f"the end of {what}", 60)
        yield
    finally:
        scale(replicas)
    until(lambda: running() == replicas, f"{what}'s return", 120)


def take_the_api_server_away(scene: Scene) -> None:
    manifest = CONTROL_PLANE.etc("kubernetes/manifests/kube-apiserver.yaml")
    aside = CONTROL_PLANE.etc("kubernetes/kube-apiserver.yaml")
    manifest.rename(aside)
    try:
        shell.wait_for(lambda: not control.healthy(), "the API server's end", timeout=60)
        time.sleep(120)
    finally:
        aside.rename(manifest)
    shell.wait_for(control.healthy, "the API server", timeout=120)
    scene.whole(120)


def fill_the_engine_cache(scene: Scene) -> None:
    """Every pod starts anew, with a cache of engines that has no room for one."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "engines"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    run("apply", "--filename", "-", given=claim)
    run("wait", "pvc/engines", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s")
    volume = run("get", "pvc/engines", "--output", "jsonpath={.spec.volumeName}")
    cache = {"type": "pvc", "pvc": {"claimName": "engines"}}
    two = {"triton": {"replicas": 2}}
    with harm.full(f"{volumes.IN_NODES}/{volume}"):
        scene.service.upgrade({"engine": {"enabled": True, "cache": cache}} | two)
        scene.whole(180)
        for pod in scene.service.pods():
            said = run("logs", pod["metadata"]["name"], "--container", "build-engine")
            assert "warning" in said, said
            assert "No space left" in said, said
    scene.service.upgrade(two)
    run("delete", "pvc", "engines", "--wait=false")
    scene.whole(180)


def put_the_clock_forward(scene: Scene) -> None:
    """One pod's clock jumps by two hours while it serves. The kernel has no such clock a namespace: a library
    shows it to Triton and its processes, who have the others' clock first. The kernel's own timed waits know
    nothing of it, so how such a pod ends, which waits for much, says nothing of a real clock."""
    library = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
    if not library.exists():
        preflight.install(["libfaketime"], preflight.log())
    given = config_map("faketime", {library.name: library.read_bytes()})
    run("apply", "--server-side", "--filename", "-", given=given)
    environment = {
        "LD_PRELOAD": f"/faketime/{library.name}:{PRELOADED}",
        "FAKETIME_TIMESTAMP_FILE": "/tmp/clock",
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    triton = {
        "name": "triton",
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "volumeMounts": [{"name": "faketime", "mountPath": "/faketime", "readOnly": True}],
    }
    volumes = [{"name": "faketime", "configMap": {"name": "faketime"}}]
    patch = {"spec": {"template": {"spec": {"containers": [triton], "volumes": volumes}}}}
    run("patch", DEPLOYMENT, "--type=strategic", "--patch", json.dumps(patch))
    run("rollout", "status", DEPLOYMENT, "--timeout=240s")
    scene.whole(60)
    name = scene.service.pods()[0]["metadata"]["name"]
    run("exec", name, "--container", "triton", "--", "sh", "-c", "echo +2h > /tmp/clock")
    until(lambda: two_hours_off(name), "a clock two hours off", 60)
    time.sleep(30)
    assert scene.service.watched(), "Prometheus has lost a pod"


def put_the_clock_right(service: Service) -> None:
    if "/faketime" not in run("get", DEPLOYMENT, "--output", "yaml"):
        return
    run("rollout", "undo", DEPLOYMENT)
    run("rollout", "status", DEPLOYMENT, "--timeout=240s")
    service.settle(2, 120)


def two_hours_off(pod: str) -> bool:
    shown = float(run("exec", pod, "--container", "triton", "--", "date", "+%s"))
    return 7000 < shown - time.time() < 7400


FAULTS = [
    Fault(
        "triton-killed",
        "SIGKILL to Triton in one pod",
        "the other pod takes over",
        "what was in the pod, and what reaches it until its endpoint is gone",
        kill(harm.triton),
        for_seconds=TOLD,
        share=0.6,
    ),
    Fault(
        "out-of-memory",
        "a model leaks until the kernel ends it at the memory limit",
        "as for Triton killed",
        "what was in the pod, and what reaches it until its endpoint is gone",
        ask_the_model("leak", 120, 180),
        for_seconds=60,  # of a leak that pages in what it takes
        share=0.2,
        nightly=True,
    ),
    Fault(
        "memory-nearly-full",
        "a client leaves gRPC streams behind, each with a request of 1 MiB that Triton keeps",
        "the pod leaves service and its Triton ends as in a rollout, before the kernel ends it",
        "none",
        leave_streams,
        nightly=True,
    ),
    Fault(
        "instance-killed",
        "SIGKILL to the process of one model instance",
        "Triton starts anew, instead of failing what it gives to that instance for ever",
        "the batch in the instance; then as for Triton killed",
        kill(an_instance),
        for_seconds=TOLD + 5,
        share=0.6,
        nightly=True,
    ),
    Fault(
        "instance-hangs",
        "all instances of one pod stand still within a batch",
        "a batch that outlasts triton.executionSeconds ends Triton, which starts anew",
        "half of the requests for executionSeconds (here 5 s), Triton's exit and a restart",
        ask_the_model("hang", 60, 120),
        for_seconds=2 * EXECUTION + 5 + TOLD,
        share=0.6,
    ),
    Fault(
        "instance-stopped",
        "SIGSTOP to the process of one model instance",
        "Triton starts anew once the process has been silent for triton.executionSeconds",
        "a batch that the instance has or gets; then as for Triton killed",
        kill(an_instance, signal.SIGSTOP),
        for_seconds=EXECUTION + 5 + TOLD,
        share=0.6,
        nightly=True,
    ),
    Fault(
        "triton-stopped",
        "SIGSTOP to Triton in one pod",
        "the pod is out of service after three probes, and Triton anew after two minutes",
        "half of the requests until the pod is not ready",
        stop_triton,
        for_seconds=NOTICED,
        share=0.6,
        nightly=True,
    ),
    Fault(
        "node-lost",
        "a worker node without power",
        "the other node serves alone once Kubernetes takes the node for lost (40 to 50 s)",
        "half of the requests until then: nobody says that the node is gone",
        lose_a_node,
        for_seconds=75,
        share=0.6,
        nightly=True,
    ),
    Fault(
        "kubelet-stopped",
        "SIGSTOP to a node's kubelet until its node counts as lost",
        "the pod that nobody vouches for loses its endpoint and no request",
        "none",
        stop_the_kubelet,
        nightly=True,
    ),
    Fault(
        "containerd-stopped",
        "SIGSTOP to a node's containerd, 45 s",
        "what runs, serves",
        "none",
        stop_containerd,
        takes_pods_out=None,
        nightly=True,
    ),
    Fault(
        "packet-loss",
        "2 % of the packets of one node are lost, 30 s",
        "slower, not fewer",
        "none",
        lose_packets,
        takes_pods_out=False,
        nightly=True,
    ),
    Fault(
        "narrow-link",
        "the link to one node carries 16 Mbit/s, 30 s, of which the load takes 12",
        "slower, not fewer",
        "none",
        narrow_the_link,
        takes_pods_out=False,
        nightly=True,
    ),
    Fault(
        "dns-gone",
        "no CoreDNS, 40 s",
        "clients that have the addresses go on",
        "HTTP requests that need a new connection; gRPC keeps the addresses that it had",
        take_dns_away,
        for_seconds=50,
        share=0.1,
        takes_pods_out=False,
        nightly=True,
    ),
    Fault(
        "clock-off",
        "a rollout, then the clock of one pod jumps two hours forward",
        "nothing depends on what time it is",
        "none",
        put_the_clock_forward,
        clean_up=put_the_clock_right,
        nightly=True,
    ),
    Fault(
        "prometheus-gone",
        "no Prometheus, 40 s",
        "serving goes on; the scaler leaves the pods alone (tests/e2e/test_autoscaling.py)",
        "none",
        take_prometheus_away,
        takes_pods_out=None,
        nightly=True,
    ),
    Fault(
        "disk-full",
        "all pods start anew while the disk of the engine cache is full",
        "each pod builds its engine for itself",
        "none",
        fill_the_engine_cache,
        nightly=True,
    ),
    Fault(
        "api-server-gone",
        "no API server, two minutes",
        "what runs, serves",
        "none",
        take_the_api_server_away,
        takes_pods_out=None,
        nightly=True,
    ),
]


@pytest.fixture(scope="module", autouse=True)
def on_embedded_nodes() -> None:
    harm.embedded()


@pytest.mark.parametrize(
    "fault",
    [pytest.param(each, id=each.name, marks=[pytest.mark.nightly] * each.nightly) for each in FAULTS],
)
def test_fault(fault: Fault, service: Service, record: Callable[[Row], None]) -> None:
    service.renew()
    try:
        suffer(fault, service, record)
    finally:
        fault.clean_up(service)


def suffer(fault: Fault, service: Service, record: Callable[[Row], None]) -> None:
    load = (stream("grpc", (3600, RATE)), stream("http", (3600, RATE)))
    with sending(
        service,
        *load,
    ) as sender:
        time.sleep(BEFORE)  # what is measured: a load without harm
        pod = service.pods()[0]
        began = time.time()
        scene = Scene(service, pod, began)
        fault.harm(scene)
        whole = time.time() - began
        time.sleep(AFTER)
        sent = sender.stop()
        ended = time.time()
    row = Row(
        fault.name, "faults", fault.promise, fault.fault, f"{RATE:.0f} requests/s over each protocol, 2 pods",
        counts(sent, sent.ok | sent.failed), counts(sent, sent.failed), fault.may_fail,
        recovered(sent, began), whole, sent.kinds(),
        scene.notes | {
            "p95 before, s": p95(sent, sent.during(0, began)),
            "p95 meanwhile, s": p95(sent, sent.during(began, began + whole)),
        },
    )  # fmt: skip
    record(row)
    before = sent.during(0, began - 1)
    assert not sent.kinds(before), "requests failed before there was any harm"
    assert sum(row.failed.values()) <= fault.most, f"{row.failed} failed, and {fault.most} may: {row.kinds}"
    assert row.recovered <= fault.for_seconds, (
        f"the last failure was sent {row.recovered:.1f} s after the harm"
    )
    # A load that stood still would lose nothing either.
    expected = RATE * (ended - began)
    assert all(count > 0.7 * expected for count in row.sent.values()), f"{row.sent}, not {expected:.0f} each"
    if fault.takes_pods_out is not None:
        least, restarts = seen(service, began, ended)
        said = f"Prometheus saw {least} pods in service and {restarts} restarts"
        assert (least < 2 or restarts > 0) == fault.takes_pods_out, said


def p95(sent: Sent, which: Any) -> float:
    """Of the requests that were answered, in seconds; 0 where none was."""
    took = sent.took[sent.ok & which]
    return round(float(np.percentile(took, 95)), 3) if len(took) else 0.0


def counts(sent: Sent, which: Any) -> dict[str, int]:
    return {protocol: int((sent.over(protocol) & which).sum()) for protocol in ("grpc", "http")}


def recovered(sent: Sent, began: float) -> float:
    """Seconds from the harm until the last request was sent that failed; 0 where none did."""
    late = sent.at[sent.failed & sent.during(began)]
    return round(float(late.max() - began), 1) if len(late) else 0.0


def seen(service: Service, began: float, ended: float) -> tuple[int, int]:
    """The fewest ready pods that Prometheus knew of meanwhile, and how often a Triton was started again."""
    time.sleep(6)  # the last scrape of that time
    window = f"[{ended - began + 6:.0f}s]"
    ready = f'min_over_time(kube_deployment_status_replicas_ready{{namespace="{NAMESPACE}"}}{window})'
    again = f'kube_pod_container_status_restarts_total{{namespace="{NAMESPACE}", container="triton"}}'
    found = [
        service.prometheus(query, at=ended + 5)
        for query in (ready, f"sum(max_over_time({again}{window}) - min_over_time({again}{window}))")
    ]
    assert all(found), f"Prometheus has no {ready} or {again}"
    least, restarts = (int(float(each[0]["value"][1])) for each in found)
    return least, restarts
