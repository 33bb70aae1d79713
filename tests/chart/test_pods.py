"""Pods: security, names that meet, what restarts them and what doesn't."""

from __future__ import annotations

from typing import Any

import pytest

from .render import containers, only, pods, render_chart, setting

URL = {"model": {"source": {"type": "url", "url": "s3://bucket/model"}}}
CLAIM = {"model": {"source": {"type": "pvc", "pvc": {"claimName": "models"}}}}
ENGINES = {"engine": {"cache": {"type": "pvc"}}}
SOURCES = {"image": {}, "claim": CLAIM, "url": URL, "engines on a claim": ENGINES}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_every_pod_meets_the_restricted_standard(source: dict[str, Any]) -> None:
    found = pods(render_chart(source))
    assert len(found) == 4
    for name, pod in found.items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 1000, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "configMap", "persistentVolumeClaim"}, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, (name, container["name"])
            assert context["capabilities"] == {"drop": ["ALL"]}, (name, container["name"])
            assert context["readOnlyRootFilesystem"] is True, (name, container["name"])


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_every_container_says_what_it_needs(source: dict[str, Any]) -> None:
    for name, pod in pods(render_chart(source)).items():
        for container in containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), (name, container["name"])
            assert "memory" in container["resources"]["limits"], (name, container["name"])


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_every_mount_has_its_volume_and_every_volume_is_mounted(source: dict[str, Any]) -> None:
    for name, pod in pods(render_chart(source)).items():
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}, name


def test_every_service_selects_the_pods_of_one_deployment_and_ports_that_they_have() -> None:
    manifests = render_chart()
    services = [manifest for manifest in manifests if manifest["kind"] == "Service"]
    assert len(services) == 3
    for service in services:
        pod = selected(manifests, service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports(pod), service["metadata"]["name"]


def test_every_pod_monitor_selects_the_pods_of_one_deployment_and_a_port_that_they_have() -> None:
    manifests = render_chart()
    monitors = [manifest for manifest in manifests if manifest["kind"] == "PodMonitor"]
    assert len(monitors) == 2
    for monitor in monitors:
        pod = selected(manifests, monitor["spec"]["selector"]["matchLabels"])
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert endpoint["port"] in ports(pod), monitor["metadata"]["name"]


def test_every_deployment_selects_its_own_pods_only() -> None:
    manifests = render_chart()
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            assert (
                selected(manifests, manifest["spec"]["selector"]["matchLabels"])
                == manifest["spec"]["template"]
            )


def test_every_probe_asks_a_port_that_the_pod_has() -> None:
    """By its name within the container, by its number where another container of the pod listens."""
    for name, pod in pods(render_chart()).items():
        numbers = {port["containerPort"] for each in containers(pod) for port in each.get("ports", [])}
        for container in containers(pod):
            known = {port["name"] for port in container.get("ports", [])} | numbers
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                handler = container.get(probe, {})
                for action in ("httpGet", "tcpSocket"):
                    if action in handler:
                        assert handler[action]["port"] in known, (name, probe)


def checksum(values: dict[str, Any]) -> str:
    pod = pods(render_chart(values))["Deployment inference-system-triton"]
    return str(pod["metadata"]["annotations"]["checksum/model-config"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.batching.maxQueueDelayMicroseconds", 100), ("model.instances.count", 2), ("model.version", 2)],
)
def test_a_changed_configuration_restarts_the_pods(key: str, value: Any) -> None:
    assert checksum(setting(key, value)) != checksum({})


@pytest.mark.parametrize(
    ("key", "value"),
    [("triton.replicas", 7), ("slo.queueTime", 1), ("loadtest.users", 9), ("region", "us-east1")],
)
def test_what_triton_does_not_read_restarts_no_pod(key: str, value: Any) -> None:
    before, after = (
        pods(render_chart(values))["Deployment inference-system-triton"]
        for values in ({}, setting(key, value))
    )
    assert before == after


def test_the_startup_probe_waits_as_long_as_it_is_told() -> None:
    pod = pods(render_chart({"triton": {"startupSeconds": 301}}))["Deployment inference-system-triton"][
        "spec"
    ]
    probe = pod["containers"][0]["startupProbe"]
    assert 301 <= probe["periodSeconds"] * probe["failureThreshold"] <= 303


def test_liveness_waits_longer_than_readiness() -> None:
    """An overloaded pod leaves the Service long before it is restarted."""
    pod = pods(render_chart())["Deployment inference-system-triton"]["spec"]
    triton, proxy, _ = pod["containers"]
    patience = {
        name: container[name]["periodSeconds"] * container[name]["failureThreshold"]
        for name, container in (("readinessProbe", proxy), ("livenessProbe", triton))
    }
    assert patience["livenessProbe"] >= 120
    assert patience["livenessProbe"] > 4 * patience["readinessProbe"]


def test_each_instance_has_a_queue_of_its_own() -> None:
    """From the one that they share otherwise, instances get lost: tests/integration/test_batcher.py."""
    pod = pods(render_chart())["Deployment inference-system-triton"]["spec"]
    assert "--rate-limit=execution_count" in pod["containers"][0]["args"]


def test_a_rollout_needs_no_spare_gpu_by_default() -> None:
    strategy = only(render_chart(), "Deployment", "-triton")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}


def test_a_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    pod = pods(render_chart(setting("triton.image.digest", digest)))["Deployment inference-system-triton"]
    assert pod["spec"]["containers"][0]["image"] == f"nvcr.io/nvidia/tritonserver@{digest}"


def test_the_load_test_can_run_wherever_its_nodes_allow() -> None:
    """`helm test` runs with it: both are clients in the cluster."""
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    values = {"loadtest": {"tolerations": tolerations, "nodeSelector": {"pool": "clients"}}}
    for name, pod in pods(render_chart(values)).items():
        if not name.endswith("-triton"):
            assert pod["spec"]["tolerations"] == tolerations, name
            assert pod["spec"]["nodeSelector"] == {"pool": "clients"}, name


def selected(manifests: list[dict[str, Any]], selector: dict[str, str]) -> dict[str, Any]:
    """The only pod template that has these labels."""
    found = [
        pod
        for pod in pods(manifests).values()
        if selector.items() <= pod["metadata"].get("labels", {}).items()
    ]
    assert len(found) == 1, f"{selector} selects {len(found)}"
    return found[0]


def ports(pod: dict[str, Any]) -> set[str]:
    return {port["name"] for container in containers(pod) for port in container.get("ports", [])}
