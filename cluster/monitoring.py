"""The monitoring stack that a cluster already has: prometheus-operator with its CRDs, and one Prometheus."""

from __future__ import annotations

from pathlib import Path

from cluster import control
from cluster.components import prometheus_version

NAMESPACE = "monitoring"


def install(operator: Path, operator_image: str, prometheus_image: str) -> None:
    """Applies CRDs and roles from the operator's module and the objects of manifests/monitoring.yaml.

    operator: folder of the component prometheus-operator, with its `crds` and `rbac`. Raises StepFailed.
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
        "OPERATOR_IMAGE": operator_image,
        "PROMETHEUS_IMAGE": prometheus_image,
        "PROMETHEUS_VERSION": prometheus_version(),
    }
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    objects = [
        namespace,
        _documents(roles).replace("namespace: default", f"namespace: {NAMESPACE}"),
        control.render("monitoring.yaml", values),
    ]
    control.apply("\n---\n".join(objects))


def ready() -> bool:
    """Whether the operator has made Prometheus and it is ready."""
    sets = control.get("statefulsets", "--namespace", NAMESPACE)
    return any(
        s["metadata"]["name"] == "prometheus-prometheus" and s["status"].get("readyReplicas")
        for s in sets["items"]
    )


def _documents(files: list[Path]) -> str:
    return "\n---\n".join(file.read_text() for file in files)
