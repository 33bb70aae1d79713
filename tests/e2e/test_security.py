"""What a client in the cluster can do to Triton: ask for predictions, and nothing else. Others: nothing."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_tools.kube import Release

from .helm import kubectl, listed
from .leaks import leaks

OPEN = {"live", "ready", "metadata", "config"}
LARGE = "send a large body"
NONE = "send no pictures"


@pytest.fixture(scope="module")
def said(release: Release) -> dict[str, dict[str, str]]:
    """Triton's answers to a pod of the release's namespace, by protocol and call."""
    if not release.values["loadtest"]["enabled"]:
        pytest.skip("the release has no load-test worker to ask from")
    if release.values["triton"]["tls"]["secretName"]:
        pytest.skip("asked without TLS")
    service = f"{release.fullname}-triton.{release.namespace}.svc"
    done = kubectl(
        "exec", "--stdin", f"deployment/{release.fullname}-loadtest-worker", "--",
        "/opt/venv/bin/python", "-", f"{service}:8001", f"{service}:8000", release.values["model"]["name"],
        str(999_999_999),
        namespace=release.namespace, given=Path(__file__).with_name("intruder.py").read_text(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: dict[str, dict[str, str]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_client_can_load_register_and_change_nothing(
    protocol: str, said: dict[str, dict[str, str]]
) -> None:
    closed = {call: answer for call, answer in said[protocol].items() if call not in {*OPEN, LARGE, NONE}}
    assert len(closed) >= 11
    assert {call: answer for call, answer in closed.items() if "restricted" not in answer} == {}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_health_and_metadata_stay_open(protocol: str, said: dict[str, dict[str, str]]) -> None:
    assert {call: said[protocol][call] for call in OPEN} == dict.fromkeys(OPEN, "")


def test_a_body_that_is_too_large_is_refused_before_any_of_it_is_read(
    said: dict[str, dict[str, str]],
) -> None:
    assert re.fullmatch(r"\[413\] the body is larger than \d+ bytes", said["http"][LARGE])


def test_a_call_of_no_pictures_gets_into_no_batch(release: Release, said: dict[str, dict[str, str]]) -> None:
    if release.values["triton"]["image"]["repository"].startswith("nvcr.io/"):
        pytest.skip("NVIDIA's image has no fence over gRPC")
    refused = r"\[INVALID_ARGUMENT\] input '\S+': a shape has the size 0, sizes are 1 to \d+"
    assert re.fullmatch(refused, said["grpc"][NONE])


def test_running_pods_meet_the_restricted_standard(release: Release) -> None:
    """The API server itself says which pods of the namespace would not be admitted."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    done = kubectl(
        "label", "namespace", release.namespace, label, "--dry-run=server", "--overwrite",
        namespace=release.namespace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    system = kubectl(
        "label", "namespace", "kube-system", label, "--dry-run=server", "--overwrite", namespace="kube-system"
    )
    assert "violate" in system.stderr, "the check says nothing, whatever runs"


# Tries `ADDRESS PORT` words of standard input at once; prints those that take a connection, as JSON.
TRY = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def connects(target):
    try:
        socket.create_connection(target, timeout=3).close()
    except OSError:
        return False
    return True

targets = [(address, int(port)) for address, port in map(str.split, sys.argv[1:])]
with ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps([target for target, open in zip(targets, pool.map(connects, targets)) if open]))
"""
Target = tuple[str, int]
PATIENCE = 60.0  # seconds until a policy has reached a pod that just came


@pytest.fixture(scope="module")
def targets(release: Release) -> dict[str, Target]:
    """Every port of every pod and Service of it, by name: `COMPONENT PORT of POD` or `SERVICE:PORT`."""
    if not release.values["networkPolicy"]["enabled"]:
        pytest.skip("the release has no NetworkPolicy")
    selector = f"--selector=app.kubernetes.io/instance={release.name}"
    pods = listed(release.namespace, "pods", selector, "--field-selector=status.phase=Running")
    services = listed(release.namespace, "services", selector)
    found = {}
    for pod in pods:
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for number in ports(pod):
            found[f"{component} {number} of {pod['metadata']['name']}"] = (pod["status"]["podIP"], number)
    for service in services:
        for port in service["spec"]["ports"]:
            if service["spec"]["clusterIP"] != "None":
                name = f"{service['metadata']['name']}:{port['name']}"
                found[name] = (service["spec"]["clusterIP"], port["port"])
    return found


def ports(pod: dict[str, Any]) -> list[int]:
    containers = pod["spec"]["containers"]
    return [port["containerPort"] for container in containers for port in container.get("ports", [])]


@pytest.fixture(scope="module")
def outsider(release: Release) -> Iterator[str]:
    """A namespace that no policy lists, with a pod `outsider` in it that listens on port 8000."""
    name = f"outsider-{uuid.uuid4().hex[:8]}"
    assert kubectl("create", "namespace", name, namespace=name).returncode == 0
    try:
        # Pods are refused until the account that they run as is there.
        made = kubectl("wait", "serviceaccount/default", "--for=create", "--timeout=60s", namespace=name)
        assert made.returncode == 0, made.stderr
        serve = "import socketserver as s; s.TCPServer(('', 8000), s.BaseRequestHandler).serve_forever()"
        start(release, name, "outsider", {}, ["/opt/venv/bin/python", "-c", serve])
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false", namespace=name)


def start(release: Release, namespace: str, name: str, labels: dict[str, str], command: list[str]) -> None:
    """Starts a pod from the load test's own image, beside Triton's pods where they may run."""
    workers = listed(release.namespace, "pods", "--selector=app.kubernetes.io/component=loadtest-worker")
    worker = next(
        pod for pod in workers if pod["metadata"]["labels"]["app.kubernetes.io/instance"] == release.name
    )
    (container,) = worker["spec"]["containers"]
    spec = {
        **{key: worker["spec"][key] for key in ("securityContext", "automountServiceAccountToken")},
        # Not where the API server runs, if that is a node: no policy keeps a pod from what is on its own.
        "nodeSelector": release.values["triton"]["nodeSelector"],
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "main",
                "command": command,
                **{key: container[key] for key in ("image", "imagePullPolicy", "securityContext")},
            }
        ],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    done = kubectl("apply", "--filename", "-", namespace=namespace, given=json.dumps(pod))
    assert done.returncode == 0, done.stderr
    done = kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=120s", namespace=namespace)
    assert done.returncode == 0, done.stderr


def reached(namespace: str, pod: str, targets: dict[str, Target]) -> set[str]:
    """Those of the targets that take a connection from the pod."""
    names = {f"{address} {port}": name for name, (address, port) in targets.items()}
    done = kubectl(
        "exec", "--stdin", pod, "--", "/opt/venv/bin/python", "-", *names, namespace=namespace, given=TRY
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {names[f"{address} {port}"] for address, port in json.loads(done.stdout)}


def test_nothing_is_reachable_from_a_namespace_that_is_not_listed(
    release: Release, targets: dict[str, Target], outsider: str
) -> None:
    assert {name.split()[0] for name in targets if " " in name} >= {
        "triton",
        "loadtest-master",
        "loadtest-worker",
    }
    dns = {
        "dns": (listed("kube-system", "services", "--selector=k8s-app=kube-dns")[0]["spec"]["clusterIP"], 53)
    }
    assert reached(outsider, "outsider", {**targets, **dns}) == {"dns"}


def test_a_load_test_pod_that_was_taken_over_reaches_triton_and_nothing_else(
    release: Release, targets: dict[str, Target], outsider: str
) -> None:
    """A pod with the labels of a worker, which is all that policies know it by."""
    labels = {
        "app.kubernetes.io/name": "inference-system",
        "app.kubernetes.io/instance": release.name,
        "app.kubernetes.io/component": "loadtest-worker",
    }
    name = f"taken-over-{uuid.uuid4().hex[:8]}"
    monitoring = release.values["monitoring"]["prometheus"]["namespace"]
    (api,) = listed("default", "services", "--field-selector=metadata.name=kubernetes")
    foreign = {"API server": (api["spec"]["clusterIP"], 443)} | {
        f"{pod['metadata']['name']} {number}": (pod["status"]["podIP"], number)
        for pod in [*listed(monitoring, "pods"), *listed(outsider, "pods")]
        for number in ports(pod) or [8000]
    }
    allowed = re.compile(
        r"triton 800[01] of .*|loadtest-master 5557 of .*|.*-triton:(http|grpc)|.*-loadtest:workers"
    )
    wanted = {target for target in targets if allowed.fullmatch(target)}
    try:
        start(release, release.namespace, name, labels, ["sleep", "600"])
        (pod,) = listed(release.namespace, "pods", f"--field-selector=metadata.name={name}")
        for node in listed(release.namespace, "nodes"):
            (address,) = (
                each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"
            )
            # What is on its own node is there for it, whatever policies say.
            if address != pod["status"]["hostIP"]:
                foreign |= {
                    f"{node['metadata']['name']} {number}": (address, number) for number in (6443, 10250)
                }
        deadline = time.monotonic() + PATIENCE
        while (seen := reached(release.namespace, name, {**targets, **foreign})) != wanted:
            assert time.monotonic() < deadline, f"reached {sorted(seen)}, not {sorted(wanted)}"
    finally:
        kubectl("delete", "pod", name, "--ignore-not-found", namespace=release.namespace)


def test_a_load_test_pod_has_no_token_of_the_api_server(release: Release) -> None:
    look = kubectl(
        "exec", f"deployment/{release.fullname}-loadtest-worker", "--", "ls", "/var/run/secrets",
        namespace=release.namespace,
    )  # fmt: skip
    assert look.returncode
    assert "No such file" in look.stderr


def test_no_secret_is_in_any_log_event_or_metric(release: Release) -> None:
    assert leaks(release) == set()
