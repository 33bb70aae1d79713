"""The monitoring stack that a cluster already has: prometheus-operator, Prometheus, Alertmanager and
kube-state-metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster import control
from cluster.components import prometheus_version

NAMESPACE = "monitoring"
ALERTMANAGER_VERSION = "v0.25.0"  # Debian 12's


def install(operator: Path, image: Callable[[str], str]) -> None:
    """Applies CRDs and roles from the operator's module and the objects of manifests/monitoring.yaml.

    operator: folder of the component prometheus-operator, with its `crds` and `rbac`. image: what an image of
    the cluster goes by, from its name. Raises StepFailed.
    """
    definitions = sorted((operator / "crds").glob("*.yaml"))
    control.apply(_documents(definitions))
    control.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s", timeout=90)
    # Upstream's manifests are for the namespace default.
    roles = [
        operator / "rbac" / f"prometheus-operator-{kind}.yaml"
        for kind in ("cluster-role", "cluster-role-binding")
    ]
    values = {
        "OPERATOR_IMAGE": image("prometheus-operator"),
        "PROMETHEUS_IMAGE": image("prometheus"),
        "PROMETHEUS_VERSION": prometheus_version(),
        "ALERTMANAGER_IMAGE": image("alertmanager"),
        "ALERTMANAGER_VERSION": ALERTMANAGER_VERSION,
        "STATE_IMAGE": image("kube-state-metrics"),
    }
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    objects = [
        namespace,
        _documents(roles).replace("namespace: default", f"namespace: {NAMESPACE}"),
        control.render("monitoring.yaml", values),
    ]
    control.apply("\n---\n".join(objects))


def ready() -> bool:
    """Whether the operator has made Prometheus and Alertmanager, and all of the stack is ready."""
    found = control.get("statefulsets,deployments", "--namespace", NAMESPACE)
    up = {each["metadata"]["name"] for each in found["items"] if each["status"].get("readyReplicas")}
    return up >= {"prometheus-prometheus", "alertmanager-alertmanager", "kube-state-metrics"}


def _documents(files: list[Path]) -> str:
    return "\n---\n".join(file.read_text() for file in files)
