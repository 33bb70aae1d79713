"""The API server takes what the chart renders for every region, by the CRDs of the Gateway API and of GKE.

Nothing is installed: each object is a server-side dry run, which validates it by its CRD's schema and, for
the Gateway API, by the expressions that a schema can't say.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import schemas

from .helm import kubectl

ROOT = Path(__file__).resolve().parents[2]
FLEET = ROOT / "values" / "fleet.yaml"
REGIONS = sorted((ROOT / "values" / "regions").glob("*.yaml"))
ROUTED = {"Gateway", "HTTPRoute", "HealthCheckPolicy", "GCPBackendPolicy", "ServiceExport"}
# Each laid over the fleet and its first region.
OTHERS: dict[str, dict[str, Any]] = {
    "one cluster's gateway": {"kind": "gateway", "gateway": {"certificateMap": "", "secretName": "tls"}},
    "load balancer": {"kind": "loadBalancer", "loadBalancer": {"sourceRanges": ["192.0.2.0/24"]}},
    "every name": {
        "healthCheck": {"grpc": "grpc"},
        "gateway": {"certificateMap": "", "certificates": ["one", "two"], "grpcRoute": "GRPCRoute"},
        "securityPolicy": "armor",
        "iap": {"clientId": "id", "secretName": "oauth"},
    },
}


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """One that knows the CRDs; those that the cluster lacked are taken away again."""
    try:
        crds = [*schemas.gateway(), *schemas.gke()]
    except schemas.Unavailable as error:
        pytest.skip(f"the CRDs can't be had: {error}")
    listed = done(kubectl("get", "crds", "--output=name", namespace="default")).split()
    there = {name.partition("/")[2] for name in listed}
    missing = [crd for crd in crds if crd["metadata"]["name"] not in there]
    names = [f"crd/{crd['metadata']['name']}" for crd in missing]
    name = f"routing-{uuid.uuid4().hex[:8]}"
    try:
        if missing:
            # Server-side: an annotation with the last applied object would be too large.
            given = json.dumps({"apiVersion": "v1", "kind": "List", "items": missing})
            done(kubectl("apply", "--server-side", "--filename=-", namespace="default", given=given))
            done(kubectl("wait", "--for=condition=established", *names, namespace="default"))
        done(kubectl("create", "namespace", name, namespace="default"))
        yield name
    finally:
        kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false", namespace="default")
        if missing:
            kubectl("delete", *names, "--ignore-not-found", namespace="default")


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def rendered(chart: Path, namespace: str, *files: Path) -> list[dict[str, Any]]:
    """What `helm template` gives for these values, over the fleet's."""
    values = [f"--values={file}" for file in (FLEET, *files)]
    command = ["helm", "template", "inference-system", str(chart), "--namespace", namespace, *values]
    text = done(subprocess.run(command, capture_output=True, text=True, check=False, timeout=120))
    return [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]


def dry_run(manifests: list[dict[str, Any]], namespace: str) -> subprocess.CompletedProcess[str]:
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    options = ("--server-side", "--dry-run=server", "--validate=strict", "--output=name", "--filename=-")
    return kubectl("apply", *options, namespace=namespace, given=given)


@pytest.mark.parametrize("region", REGIONS, ids=lambda file: file.stem)
def test_every_object_of_a_region_is_taken(chart: Path, namespace: str, region: Path) -> None:
    manifests = rendered(chart, namespace, region)
    config = yaml.safe_load(FLEET.read_text())["routing"]["configCluster"]
    assert ROUTED & {each["kind"] for each in manifests} == (
        ROUTED if region.stem == config else {"ServiceExport"}
    )
    taken = done(dry_run(manifests, namespace)).split()
    assert len(taken) == len(manifests)


@pytest.mark.parametrize("routing", OTHERS.values(), ids=OTHERS.keys())
def test_every_other_way_in_is_taken(
    chart: Path, namespace: str, routing: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "routing.json"
    file.write_text(json.dumps({"region": "us-central1", "routing": routing}))
    manifests = rendered(chart, namespace, REGIONS[0], file)
    assert len(done(dry_run(manifests, namespace)).split()) == len(manifests)


@pytest.mark.parametrize(
    ("kind", "path", "value", "reason"),
    [
        ("HealthCheckPolicy", ("default", "config", "type"), "TLS", "Unsupported value"),
        ("GCPBackendPolicy", ("default", "timeoutSec"), 0, "greater than or equal to 1"),
        ("GRPCRoute", ("rules", 0, "backends"), [], "unknown field"),
        # What only an expression of the CRD says.
        ("Gateway", ("listeners", 0, "protocol"), "HTTP", "tls must not be specified"),
    ],
)
def test_what_the_crds_do_not_allow_is_refused(
    chart: Path, namespace: str, tmp_path: Path, kind: str, path: tuple[Any, ...], value: Any, reason: str
) -> None:
    """So that a dry run which is taken says something."""
    file = tmp_path / "routing.json"
    gateway = {"certificateMap": "", "certificates": ["one"], "grpcRoute": "GRPCRoute"}
    file.write_text(json.dumps({"region": "us-central1", "routing": {"gateway": gateway}}))
    manifest = next(each for each in rendered(chart, namespace, REGIONS[0], file) if each["kind"] == kind)
    target = manifest["spec"]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    refused = dry_run([manifest], namespace)
    assert refused.returncode != 0
    assert reason in refused.stderr
