"""Fake GPU nodes: objects that kwok keeps alive, and whose pods it makes ready and lets end."""

from __future__ import annotations

import copy
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster.shell import tail, tied
from model_tools.console import CheckFailed
from model_tools.kube import api_session

LABEL = "inference-system/simulated"
SELECTOR = f"{LABEL}=true"
ZONES = "abc"
# Nobody's addresses (RFC 2544: benchmarks): what is sent there ends at the switch of the cluster's nodes.
PODS, NODES = "198.18.0.0/16", "198.19"
# A machine with 8 processors and 30 GB, as T4s are attached to. Without the label kubernetes.io/os, which
# kube-proxy and network plug-ins ask for, none of the cluster's own pods comes here.
# What kwok does at once. With its own 4, leases of a thousand nodes come late as soon as the API server takes
# 40 ms for one, and nodes count as lost.
PARALLEL = 32
CAPACITY = {"cpu": "8", "memory": "30Gi", "ephemeral-storage": "100Gi", "pods": "110"}


def stages(folder: Path, start: float, drain: float) -> str:
    """kwok's configuration, as YAML: its own stages for nodes and pods with these delays.

    A pod is ready so many seconds after it was scheduled, its init containers completed, and gone so many
    after it was told to end.
    """
    delays = {"pod-ready": start, "pod-delete": drain, "node-initialize": 0.0}
    options = ("nodeLeaseParallelism", "nodePlayStageParallelism", "podPlayStageParallelism")
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokConfiguration",
            "options": dict.fromkeys(options, PARALLEL),
        }
    ]
    for name, seconds in delays.items():
        (file,) = folder.rglob(f"{name}.yaml")
        stage = yaml.safe_load(file.read_text())
        stage["spec"]["delay"] = {"durationMilliseconds": round(1000 * seconds)}
        documents.append(stage)
        if name == "pod-ready":
            documents.append(_again(stage))
    return yaml.safe_dump_all(documents)


def _again(stage: dict[str, Any]) -> dict[str, Any]:
    """As kubelets do, and kwok's stages don't: says again that a running pod is ready, after the controller
    that took its node for lost has said that it is not."""
    again = copy.deepcopy(stage)
    again["metadata"]["name"] = "pod-ready-again"
    again["spec"]["delay"] = {"durationMilliseconds": 1000}
    for condition in again["spec"].get("selector", {}).get("matchExpressions", []):
        if condition["key"] == ".status.phase":
            condition["values"] = ["Running"]
    return again


@contextmanager
def kwok(programs: Path, start: float, drain: float, scratch: Path, kubeconfig: str) -> Iterator[int]:
    """kwok as a process, which is ended afterwards; gives its id. Raises CheckFailed if it does not start."""
    config, log = scratch / "stages.yaml", scratch / "kwok.log"
    config.write_text(stages(programs, start, drain))
    argv = [
        programs / "kwok", "--config", config, "--kubeconfig", kubeconfig, "--cidr", PODS,
        "--manage-nodes-with-label-selector", SELECTOR, "--node-lease-duration-seconds", "40",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied(list(map(str, argv))), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        time.sleep(1)
        if process.poll() is not None:
            raise CheckFailed(f"kwok ended with status {process.returncode}, {tail(log)}")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def node(number: int, worker: dict[str, Any]) -> dict[str, Any]:
    """A node as `worker`, one of the cluster's own, is marked."""
    name = f"simulated-{number:04d}"
    resources = CAPACITY | {"nvidia.com/gpu": worker["status"]["allocatable"]["nvidia.com/gpu"]}
    marks = {k: v for k, v in worker["metadata"]["labels"].items() if k.startswith("cloud.google.com/")}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                **marks,
                LABEL: "true",
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": f"simulated-{ZONES[number % len(ZONES)]}",
            },
        },
        "spec": {"taints": [t for t in worker["spec"].get("taints", []) if t["key"] == "nvidia.com/gpu"]},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": f"{NODES}.{number // 250}.{number % 250 + 1}"},
                {"type": "Hostname", "address": name},
            ],
        },
    }


def make(count: int, timeout: float = 300) -> float:
    """Makes nodes and waits until all are ready; returns the seconds. Raises CheckFailed."""
    session, host = api_session()
    began = time.monotonic()
    nodes = session.get(f"{host}/api/v1/nodes", timeout=30).json()["items"]
    workers = [n for n in nodes if n["status"]["allocatable"].get("nvidia.com/gpu", "0") != "0"]
    if not workers:
        raise CheckFailed("no node of the cluster has a GPU that the simulated ones could be like")
    for number in range(count):
        answer = session.post(f"{host}/api/v1/nodes", json=node(number, workers[0]), timeout=60)
        if not answer.ok:
            raise CheckFailed(f"making node {number}: {answer.text}")
    while (ready := _ready()) < count:
        if time.monotonic() - began > timeout:
            raise CheckFailed(f"{ready} of {count} simulated nodes are ready after {timeout:g} s")
        time.sleep(2)
    return time.monotonic() - began


def _ready() -> int:
    """Nodes that are ready and that the scheduler may use."""
    session, host = api_session()
    answer = session.get(f"{host}/api/v1/nodes", params={"labelSelector": SELECTOR}, timeout=60)
    answer.raise_for_status()
    return sum(
        any(c["type"] == "Ready" and c["status"] == "True" for c in each["status"].get("conditions", []))
        and not any(t["key"].startswith("node.kubernetes.io/") for t in each["spec"].get("taints", []))
        for each in answer.json()["items"]
    )


def remove() -> None:
    """Removes all simulated nodes; their leases go with them."""
    session, host = api_session()
    answer = session.delete(f"{host}/api/v1/nodes", params={"labelSelector": SELECTOR}, timeout=120)
    if not answer.ok:
        raise CheckFailed(f"removing the simulated nodes: {answer.text}")


def cordon(names: list[str], unschedulable: bool) -> None:
    session, host = api_session()
    for name in names:
        answer = session.patch(
            f"{host}/api/v1/nodes/{name}",
            data=json.dumps({"spec": {"unschedulable": unschedulable}}),
            headers={"Content-Type": "application/merge-patch+json"},
            timeout=60,
        )
        answer.raise_for_status()
