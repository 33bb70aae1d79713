"""The embedded cluster is a real one, keeps to itself, and goes without a trace.

What needs a cluster that may be broken is tried on a second one, which runs beside the first.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import cgroups, control, lifecycle, node, paths
from cluster.components import KUBERNETES
from cluster.node import Node

from .embedded import EMBEDDED

pytestmark = [
    *EMBEDDED,
    pytest.mark.timeout(900),
]
# An image that every node has, and that has a shell.
IMAGE = f"{control.REPOSITORY}/kube-proxy:{KUBERNETES.version('k8s.io/kubernetes')}"
GPU_RULES = {
    "nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
GPU = {"limits": {"nvidia.com/gpu": 1}}


def command(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, **settings)


@pytest.fixture(scope="module")
def nodes() -> list[Node]:
    """The nodes of the cluster, which is brought up if it is not."""
    ended = command("up")
    assert ended.returncode == 0, ended.stderr
    return lifecycle.require()


@pytest.fixture
def namespace(nodes: list[Node]) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    control.kubectl("create", "namespace", name)
    yield name
    control.kubectl("delete", "namespace", name, "--wait=false")


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["bash", "-c", script],
        "resources": spec.pop("resources", {}),
    }
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec,
    }


def apply(namespace: str, *objects: dict[str, Any]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    control.kubectl("apply", "--namespace", namespace, "--filename", "-", stdin=json.dumps(listed))


def wait(namespace: str, name: str, what: str) -> None:
    control.kubectl(
        "wait", f"pod/{name}", "--namespace", namespace, f"--for={what}", "--timeout=90s", timeout=100
    )


def log(namespace: str, name: str) -> str:
    wait(namespace, name, "jsonpath={.status.phase}=Succeeded")
    return control.kubectl("logs", name, "--namespace", namespace)


def test_up_on_a_cluster_that_is_up_changes_nothing_and_takes_seconds(nodes: list[Node]) -> None:
    before = {each.name: each.pid() for each in nodes}
    began = time.monotonic()
    assert command("up").returncode == 0
    assert time.monotonic() - began < 60
    assert {each.name: each.pid() for each in nodes} == before


def test_status_says_that_it_is_up_and_holds_at_most_two_gibibytes_when_idle(nodes: list[Node]) -> None:
    ended = command("status", "--json")
    said = json.loads(ended.stdout)
    assert (ended.returncode, said["state"]) == (0, "up")
    assert [each["name"] for each in said["nodes"]] == [each.name for each in nodes]
    releases = control.get("deployments", "--all-namespaces")["items"]
    if not any(each["metadata"]["labels"].get("app.kubernetes.io/managed-by") == "Helm" for each in releases):
        assert said["memory"] < 2 * 2**30


def test_every_worker_is_a_t4_node_with_one_gpu(nodes: list[Node]) -> None:
    found = control.nodes()
    assert len(nodes) > 1
    for worker in nodes[1:]:
        status, spec = found[worker.name]["status"], found[worker.name]["spec"]
        assert status["capacity"]["nvidia.com/gpu"] == status["allocatable"]["nvidia.com/gpu"] == "1"
        assert (
            found[worker.name]["metadata"]["labels"]["cloud.google.com/gke-accelerator"] == "nvidia-tesla-t4"
        )
        assert {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"} in spec["taints"]


def test_pods_that_ask_for_a_gpu_get_a_node_each_and_the_next_one_waits(
    namespace: str, nodes: list[Node]
) -> None:
    taken = sum(
        int(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0))
        for each in control.get("pods", "--all-namespaces")["items"]
        for container in each["spec"]["containers"]
        if each["status"]["phase"] in ("Running", "Pending")
    )
    workers = len(nodes) - 1
    if taken:
        pytest.skip(f"{taken} of {workers} GPUs are taken")
    names = [f"gpu-{number}" for number in range(workers + 1)]
    apply(namespace, *(pod(name, "sleep 600", resources=GPU, **GPU_RULES) for name in names))

    def placed() -> list[str]:
        found = control.get("pods", "--namespace", namespace)["items"]
        return [each["spec"]["nodeName"] for each in found if each["status"]["phase"] == "Running"]

    deadline = time.monotonic() + 90
    while len(placed()) < workers and time.monotonic() < deadline:
        time.sleep(0.5)
    assert sorted(placed()) == [each.name for each in nodes[1:]]
    events = control.get("events", "--namespace", namespace, "--field-selector", "reason=FailedScheduling")[
        "items"
    ]
    assert any("Insufficient nvidia.com/gpu" in event["message"] for event in events)


def test_a_pod_that_tolerates_no_gpu_node_runs_elsewhere(namespace: str) -> None:
    apply(namespace, pod("plain", "hostname"))
    log(namespace, "plain")
    placed = control.get("pod", "plain", "--namespace", namespace)["spec"]["nodeName"]
    assert placed == control.CONTROL_PLANE.name


def test_a_service_is_found_by_name_and_reaches_pods_of_every_node(namespace: str, nodes: list[Node]) -> None:
    serve = (
        "perl -MIO::Socket::INET -e"
        " '$s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5, ReuseAddr => 1);"
        ' while ($c = $s->accept) { print $c "here\\n"; close $c }\''
    )
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "echo"},
        "spec": {"selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    everywhere = {"tolerations": [{"operator": "Exists"}]}
    apply(namespace, service, pod("echo", serve, nodeName=nodes[-1].name, **everywhere))
    wait(namespace, "echo", "condition=Ready")
    connect = f"exec 3<>/dev/tcp/echo.{namespace}.svc.cluster.local/80 && cat <&3 && exit"
    ask = f"for attempt in $(seq 50); do {connect}; sleep 0.2; done; exit 1"
    askers = {f"from-{each.name}": each for each in nodes}
    apply(namespace, *(pod(name, ask, nodeName=each.name, **everywhere) for name, each in askers.items()))
    assert {name: log(namespace, name) for name in askers} == dict.fromkeys(askers, "here\n")


def test_a_name_outside_the_cluster_does_not_exist(nodes: list[Node]) -> None:
    """NXDOMAIN, not a refusal: gRPC's resolver asks again and again where a name may exist after all."""
    address = control.get("service", "kube-dns", "--namespace", "kube-system")["spec"]["clusterIP"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.connect((address, 53))
        for name in ("example.org", "echo.default.svc"):
            labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
            question = b"\x12\x34\x01\x00" + struct.pack("!4H", 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
            client.send(question)
            assert client.recv(512)[3] & 0x0F == 3, name


def test_prometheus_scrapes_a_pod_that_a_podmonitor_selects(namespace: str) -> None:
    proxy = "/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy/api/v1/query?query="
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "coredns"},
        "spec": {
            "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
            "namespaceSelector": {"matchNames": ["kube-system"]},
            "podMetricsEndpoints": [{"port": "metrics"}],
        },
    }
    apply(namespace, monitor)
    query = f'up{{job="{namespace}/coredns"}}'
    deadline = time.monotonic() + 90
    result: list[Any] = []
    while not result and time.monotonic() < deadline:
        result = json.loads(control.kubectl("get", "--raw", proxy + query))["data"]["result"]
    assert [each["value"][1] for each in result] == ["1"]


def test_exec_passes_status_folder_environment_and_input(nodes: list[Node], tmp_path: Path) -> None:
    script = 'echo "$PWD $GIVEN $(cat) $KUBECONFIG"; exit 7'
    ended = command(
        "exec", "--", "bash", "-c", script, cwd=tmp_path, input="in",
        env={**os.environ, "GIVEN": "x", "PYTHONPATH": str(paths.REPOSITORY)},
    )  # fmt: skip
    assert ended.stdout.split() == [str(tmp_path), "x", "in", str(paths.kubeconfig())]
    assert ended.returncode == 7


def test_exec_passes_signals(nodes: list[Node]) -> None:
    script = "trap 'echo stopped; exit 3' TERM; echo ready; while true; do sleep 0.1; done"
    argv = [sys.executable, "-m", "cluster", "exec", "--", "bash", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "stopped\n"
    assert running.returncode == 3


def test_exec_has_helm_and_kubectl_that_reach_the_cluster(nodes: list[Node]) -> None:
    ended = command(
        "exec", "--", "bash", "-c", "kubectl get --raw /readyz && helm list --all-namespaces --short"
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("ok")


def test_a_kubelet_that_dies_comes_back_and_its_node_keeps_the_gpu(second: str) -> None:
    assert command("up", "--nodes", "1").returncode == 0
    worker = Node(1)

    def kubelet() -> int | None:
        for pid in cgroups.processes(worker.name):
            try:
                if Path(f"/proc/{pid}/comm").read_text() == "kubelet\n":
                    return pid
            except OSError:
                continue
        return None

    first = kubelet()
    assert first
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while kubelet() in (None, first) and time.monotonic() < deadline:
        time.sleep(0.2)
    while registrations(worker) < 2 and time.monotonic() < deadline + 60:
        time.sleep(0.2)
    assert registrations(worker) == 2
    assert control.gpus(control.nodes()[worker.name]) == 1
    # And if it is lost, the next `up` sees to it.
    none = json.dumps({"status": {kind: {"nvidia.com/gpu": "0"} for kind in ("capacity", "allocatable")}})
    control.kubectl("patch", "node", worker.name, "--subresource=status", "--type=merge", "--patch", none)
    assert command("up", "--nodes", "1").returncode == 0
    assert control.gpus(control.nodes()[worker.name]) == 1


def registrations(worker: Node) -> int:
    """How many times a kubelet has told the API server of this node."""
    return worker.log("kubelet").read_text().count('"Successfully registered node"')


def trace(name: str) -> dict[str, list[str]]:
    """What a cluster of that name has on this machine outside the cache."""
    members = f"/{name}/"
    processes = [str(p) for p in Path("/proc").glob("[0-9]*") if members in _read(p / "cgroup")]
    mounts = [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if f"clusters/{name}/" in line
    ]
    groups = [str(path) for path in cgroups.FILESYSTEM.glob(f"*/{name}")]
    state = [str(path) for path in [paths.state().with_name(name)] if path.exists()]
    return {"processes": processes, "mounts": mounts, "cgroups": groups, "state": state}


def namespaces(pids: Iterable[int | str]) -> set[str]:
    """The namespaces that processes are in, such as net:[4026532211]."""
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/ns").glob("*"):
            try:
                found.add(str(link.readlink()))
            except OSError:  # ended meanwhile
                continue
    return found


def machine() -> dict[str, str]:
    """What of the machine itself a cluster could have changed: settings, interfaces, rules, routes."""
    settings = {str(Path("/proc/sys") / name): _read(Path("/proc/sys") / name) for name in SETTINGS}
    said = {
        " ".join(argv): subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        for argv in (["ip", "-brief", "link"], ["ip", "route"], ["iptables", "--list-rules"])
    }
    return {**settings, **said}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# What kubelet, kube-proxy or CNI would set, and what has no namespace.
SETTINGS = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/hostname",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
)
NOTHING: dict[str, list[str]] = {"processes": [], "mounts": [], "cgroups": [], "state": []}


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name for a cluster beside the one in use; whatever it leaves goes in the end."""
    name = f"second-{uuid.uuid4().hex[:6]}"
    monkeypatch.setenv("CLUSTER_NAME", name)
    yield name
    assert command("down").returncode == 0


def up_until(step: str) -> subprocess.Popen[str]:
    """An `up` of one worker that has begun a step."""
    argv = [sys.executable, "-m", "cluster", "up", "--nodes", "1"]
    running = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if line.strip() == f"… {step}":
            return running
    raise AssertionError(f"up never came to {step!r}: {''.join(said)}")


def test_up_killed_anywhere_is_made_good_by_the_next_and_down_leaves_nothing(second: str) -> None:
    before = machine()
    for step in ("2 nodes with containerd", "kubeadm init", "kubeadm join of 1 workers"):
        killed = up_until(step)
        time.sleep(1)  # somewhere inside the step, wherever that is
        killed.kill()
        killed.wait()
    ended = command("up", "--nodes", "1")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(command("status", "--json").stdout)["state"] == "up"
    assert trace(second)["processes"]
    own = namespaces(cgroups.processes()) - namespaces(["self"])
    assert own
    # Those of now: the kernel gives a namespace's number anew as soon as it is free.
    everyone = [path.name for path in Path("/proc").glob("[0-9]*")]

    assert command("down").returncode == 0
    assert trace(second) == NOTHING
    deadline = time.monotonic() + 20  # the machine's init has yet to bury the dead
    while own & namespaces(everyone) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert own & namespaces(everyone) == set()
    assert machine() == before


def test_what_a_crash_leaves_is_not_taken_for_a_cluster(second: str) -> None:
    ended = command("up", "--nodes", "1")
    assert ended.returncode == 0, ended.stderr
    node.end_processes()  # as a reboot does: every process gone, every file still there
    assert json.loads(command("status", "--json").stdout)["state"] == "down"
    refused = command("exec", "--", "true")
    assert (refused.returncode, refused.stderr) == (2, "cluster: no cluster is up: cluster up\n")
    ended = command("up", "--nodes", "1")
    assert ended.returncode == 0, ended.stderr


def test_a_second_up_at_once_says_that_it_waits(second: str) -> None:
    first = up_until("kubeadm init")
    argv = [sys.executable, "-m", "cluster", "up", "--nodes", "1"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == f"waiting for another `cluster` command (process {first.pid})\n"
        _, rest = first.communicate()
        assert first.returncode == 0, rest
        assert "kubeadm" not in waiting.stderr.read()
    assert waiting.returncode == 0
