"""What validates every rendered object does refuse what Kubernetes would refuse or ignore."""

from __future__ import annotations

from typing import Any

import pytest

from . import schemas
from .render import ROOT, only, render_chart

FLEET, CONFIG_CLUSTER = ROOT / "values" / "fleet.yaml", ROOT / "values" / "regions" / "us-central1.yaml"
GRPC_ROUTE = {"routing": {"gateway": {"grpcRoute": "GRPCRoute"}}}


@pytest.fixture(autouse=True, scope="module")
def _schemas_are_there() -> None:
    try:
        schemas.load(), schemas.load_gke()
    except schemas.Unavailable as error:
        pytest.skip(f"rendered objects are NOT validated here: {error}")


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "fault"),
    [
        ("Deployment", "-triton", "spec.template.spec.containers.0.livenesProbe", {}, "livenesProbe"),
        ("Deployment", "-triton", "spec.replicas", "two", "$.spec.replicas: 'two' is not of type 'integer'"),
        ("Deployment", "-triton", "spec.template.spec.tolerations.0.taint", "x", "taint"),
        ("Service", "-triton", "spec.ports.0.targetport", 1, "targetport"),
        ("ConfigMap", "-model-config", "data.number", 1, "$.data.number"),
        ("PodMonitor", "-triton", "spec.podMetricsEndpoints.0.period", "5s", "period"),
        ("PodMonitor", "-triton", "metadata.label", {}, "label"),
        ("PrometheusRule", "-slo", "spec.groups.0.rules.0.alarm", "x", "alarm"),
        ("PrometheusRule", "-slo", "spec.groups.0.rules.0.for", "soon", "$.spec.groups[0].rules[0].for"),
        ("Gateway", "", "spec.listeners.0.ports", 443, "ports"),
        ("Gateway", "", "spec.addresses.0.name", "inference", "name"),
        (
            "HTTPRoute",
            "-http",
            "spec.rules.0.backendRefs.0.port",
            "http",
            "$.spec.rules[0].backendRefs[0].port",
        ),
        ("GRPCRoute", "-grpc", "spec.rules.0.backends", [], "backends"),
        ("HealthCheckPolicy", "-http", "spec.default.config.type", "TLS", "$.spec.default.config.type"),
        ("HealthCheckPolicy", "-grpc", "spec.default.checkIntervalSec", 301, "301 is greater than"),
        ("HealthCheckPolicy", "-grpc", "spec.default.config.grpcHealthCheck", {}, "too many properties"),
        ("GCPBackendPolicy", "-grpc", "spec.default.timeout", 5, "timeout"),
        ("GCPBackendPolicy", "-grpc", "spec.targetRef.name", "", "$.spec.targetRef.name"),
        ("ServiceExport", "-http", "spec", {}, "spec"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path(
    kind: str, name: str, path: str, value: Any, fault: str
) -> None:
    manifest = only(render_chart(FLEET, CONFIG_CLUSTER, GRPC_ROUTE), kind, name)
    *parents, last = path.split(".")
    target: Any = manifest
    for key in parents:
        target = target[int(key)] if key.isdigit() else target[key]
    target[last] = value
    with pytest.raises(ValueError, match="is not valid") as refusal:
        schemas.validate(manifest)
    assert fault in str(refusal.value)


def test_a_kind_without_a_schema_is_not_taken_for_valid() -> None:
    with pytest.raises(ValueError, match="no schema for v1 Unheard"):
        schemas.validate({"apiVersion": "v1", "kind": "Unheard", "metadata": {"name": "x"}})
