"""What kubeadm, the kubelets and the network are told."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import grpc
import pytest
import yaml

from cluster import control, images, node, paths
from cluster.node import Node
from model_tools.console import BadInput

VALUES = {
    "TOKEN": "abcdef.0123456789abcdef",
    "KUBERNETES_VERSION": "v1.34.4",
    "REPOSITORY": "localhost/r",
    "TAG": "t",
    "POD_NETWORK": "10.244.0.0/16",
    "SERVER": "192.0.2.10",
    "CA_HASH": "sha256:00",
    "NAME": "worker-1",
    "ADDRESS": "192.0.2.11",
    "CGROUP": "/inference-system/worker-1",
    "OPERATOR_IMAGE": "localhost/r/prometheus-operator:t",
    "PROMETHEUS_IMAGE": "localhost/r/prometheus:t",
    "PROMETHEUS_VERSION": "v3.0.0",
    "ALERTMANAGER_IMAGE": "localhost/r/alertmanager:t",
    "ALERTMANAGER_VERSION": "v0.25.0",
    "STATE_IMAGE": "localhost/r/kube-state-metrics:t",
    "IMAGE": "localhost/r/keda",
    "QUEUE": "100",
}


def rendered(manifest: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(control.render(manifest, VALUES)))


def test_a_manifest_with_a_value_missing_is_refused() -> None:
    with pytest.raises(KeyError, match="TOKEN"):
        control.render("join.yaml", {key: value for key, value in VALUES.items() if key != "TOKEN"})


@pytest.mark.parametrize("manifest", sorted(path.name for path in paths.MANIFESTS.glob("*.yaml")))
def test_every_manifest_renders_to_yaml_with_nothing_left_to_fill_in(manifest: str) -> None:
    assert rendered(manifest)
    assert Template(control.render(manifest, VALUES)).get_identifiers() == []


def test_workers_are_marked_as_t4_nodes_are_on_google_kubernetes_engine() -> None:
    (join,) = rendered("join.yaml")
    registration = join["nodeRegistration"]
    assert registration["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    arguments = {each["name"]: each["value"] for each in registration["kubeletExtraArgs"]}
    assert arguments["node-labels"] == "cloud.google.com/gke-accelerator=nvidia-tesla-t4"


def test_no_image_is_pulled_and_none_is_collected() -> None:
    init, _, kubelet, _ = rendered("kubeadm.yaml")
    assert init["nodeRegistration"]["imagePullPolicy"] == "IfNotPresent"
    assert kubelet["imageGCHighThresholdPercent"] == 100


def test_kubeadm_finds_every_image_that_it_asks_for_under_the_name_it_asks_for() -> None:
    named = {name for names in images.names("t").values() for name in names}
    version = control.KUBERNETES.version("k8s.io/kubernetes")
    wanted = {
        f"{control.REPOSITORY}/kube-{name}:{version}"
        for name in ("apiserver", "controller-manager", "scheduler")
    }
    wanted |= {f"{control.REPOSITORY}/{name}:t" for name in ("etcd", "coredns", "pause")}
    assert wanted | {f"{control.REPOSITORY}/kube-proxy:{version}"} <= named


def test_nodes_share_no_address_and_no_pod_network() -> None:
    nodes = [Node(number) for number in range(51)]
    assert len({each.address for each in nodes}) == len({each.name for each in nodes}) == len(nodes)
    networks = [ipaddress.ip_network(each.pods) for each in nodes]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))
    assert all(network.subnet_of(ipaddress.ip_network(node.pod_network())) for network in networks)  # type: ignore[arg-type]


def test_addresses_are_of_a_range_that_is_nobodys() -> None:
    assert ipaddress.ip_address(Node(50).address) in ipaddress.ip_network("192.0.2.0/24")


def test_clusters_of_unlike_ranges_share_no_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    found = []
    for number in ("1", "2", "3"):
        monkeypatch.setenv("CLUSTER_RANGE", number)
        addresses = {node.switch_address(), *(Node(each).address for each in range(51))}
        found.append((addresses, ipaddress.ip_network(node.pod_network())))
    for (one, pods), (other, other_pods) in itertools.combinations(found, 2):
        assert not one & other
        assert not pods.overlaps(other_pods)


def test_a_cluster_keeps_the_range_that_it_was_made_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("CLUSTER_RANGE", "2")
    paths.keep_address_range()
    monkeypatch.delenv("CLUSTER_RANGE")
    assert Node(0).address == "198.51.100.10"
    monkeypatch.setenv("CLUSTER_NAME", "another")
    assert Node(0).address == "192.0.2.10"


@pytest.mark.parametrize("said", ["0", "4", "first", ""])
def test_a_range_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("CLUSTER_RANGE", said)
    with pytest.raises(BadInput, match="CLUSTER_RANGE"):
        paths.address_range()


def test_a_node_is_ready_when_its_condition_says_so() -> None:
    def with_status(status: str) -> dict[str, Any]:
        return {
            "status": {
                "conditions": [
                    {"type": "MemoryPressure", "status": "True"},
                    {"type": "Ready", "status": status},
                ]
            }
        }

    assert control.ready(with_status("True"))
    assert not control.ready(with_status("Unknown"))
    assert not control.ready({"status": {}})


def test_a_node_that_no_kubelet_has_told_of_gpus_has_none() -> None:
    assert control.gpus({"status": {}}) == 0
    assert control.gpus({"status": {"allocatable": {"nvidia.com/gpu": "1"}}}) == 1


@contextmanager
def runtime(socket: Path, initialized: bool) -> Iterator[None]:
    """What listens there as containerd does, before or after its part for kubelets is ready."""

    def version(_: bytes, context: grpc.ServicerContext) -> bytes:
        if not initialized:
            context.abort(grpc.StatusCode.UNKNOWN, "server is not initialized yet")
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(version)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("runtime.v1.RuntimeService", {"Version": handler})]
    )
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_a_containerd_that_only_listens_does_not_serve_kubelets_yet(tmp_path: Path) -> None:
    socket = tmp_path / "containerd.sock"
    assert not control.serves_kubelets(socket)
    with runtime(socket, initialized=False):
        assert not control.serves_kubelets(socket)
    with runtime(socket, initialized=True):
        assert control.serves_kubelets(socket)
