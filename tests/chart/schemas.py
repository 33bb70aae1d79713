"""JSON schemas of everything that the chart renders, from the Go modules that the cluster is built of.

Kubernetes' module carries its OpenAPI documents, those of the Prometheus operator, KEDA and the Gateway API
their CRDs; cluster/components names the versions. GKE's own CRDs come from an npm package (gke_crds.py).
Unknown fields are refused, which the API server only warns of. What is derived is kept in the cache, so
that Go and npm are needed once a version.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from . import gke_crds

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-system" / "schemas"

KUBERNETES = ("k8s.io/kubernetes", "cluster/components/kubernetes/go.mod")
OPERATOR = (
    "github.com/prometheus-operator/prometheus-operator",
    "cluster/components/prometheus-operator/go.mod",
)
KEDA = ("github.com/kedacore/keda/v2", "cluster/components/keda/go.mod")
# The version that GKE 1.34 installs.
GATEWAY = ("sigs.k8s.io/gateway-api", "v1.4.1")

# apiVersion: the OpenAPI document in Kubernetes' module.
DOCUMENTS = {
    "v1": "api__v1_openapi.json",
    "apps/v1": "apis__apps__v1_openapi.json",
    "autoscaling/v2": "apis__autoscaling__v2_openapi.json",
    "networking.k8s.io/v1": "apis__networking.k8s.io__v1_openapi.json",
    "policy/v1": "apis__policy__v1_openapi.json",
}
# kind: the module that carries its CRD, and where.
CRDS = {
    "PodMonitor": (OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    "PrometheusRule": (
        OPERATOR,
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "ScaledObject": (KEDA, "config/crd/bases/keda.sh_scaledobjects.yaml"),
    "Gateway": (GATEWAY, "config/crd/standard/gateway.networking.k8s.io_gateways.yaml"),
    "HTTPRoute": (GATEWAY, "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    "GRPCRoute": (GATEWAY, "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"),
}

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
URI = "urn:kubernetes"


class Unavailable(Exception):
    """Schemas can't be had on this machine; the message says which, and why."""


def validate(manifest: dict[str, Any]) -> None:
    """Raises ValueError that names the object, the path and the fault. Raises Unavailable."""
    kind, version = manifest["kind"], manifest["apiVersion"]
    errors = sorted(validator(version, kind).iter_errors(manifest), key=lambda error: error.json_path)
    if errors:
        faults = "; ".join(f"{error.json_path}: {error.message}" for error in errors)
        raise ValueError(f"{kind} {manifest['metadata']['name']} is not valid: {faults}")


@cache
def validator(version: str, kind: str) -> Draft202012Validator:
    """Checks objects of one kind. Raises ValueError for a kind that has no schema, and Unavailable."""
    of_gke = (version.partition("/")[0], kind) in gke_crds.KINDS
    schemas = load() | (load_gke() if of_gke else {})
    for name, schema in schemas.items():
        if {"version": version, "kind": kind} in schema.get("serves", []):
            registry = Registry().with_resource(URI, DRAFT202012.create_resource({"$defs": schemas}))
            return Draft202012Validator({"$ref": f"{URI}#/$defs/{name}"}, registry=registry)
    raise ValueError(f"no schema for {version} {kind}: name its document in tests/chart/schemas.py")


@cache
def load() -> dict[str, Any]:
    """All schemas but GKE's by name, made strict. Raises Unavailable."""
    versions = _versions()
    return dict(_cached("-".join(versions.values()), Path(__file__), lambda: _derive(versions)))


@cache
def load_gke() -> dict[str, Any]:
    """The schemas of GKE's own kinds by name, made strict. Raises Unavailable."""
    schemas: dict[str, Any] = {}
    for crd in gke():
        schemas |= _of_crd(crd)
    return schemas


def gke() -> list[dict[str, Any]]:
    """GKE's own CRDs. Raises Unavailable."""
    try:
        return list(_cached("gke", Path(gke_crds.__file__), gke_crds.crds))
    except gke_crds.Unavailable as error:
        raise Unavailable(str(error)) from None


def gateway() -> list[dict[str, Any]]:
    """The Gateway API's CRDs that the chart has objects of, as they are published. Raises Unavailable."""
    versions = _versions()
    name, here = "-".join(("gateway", versions[GATEWAY[0]])), Path(__file__)
    files = [(module, file) for module, file in CRDS.values() if module == GATEWAY]
    return list(_cached(name, here, lambda: [_crd(module, file, versions) for module, file in files]))


def _versions() -> dict[str, str]:
    built = {module: _version(module, ROOT / file) for module, file in (KUBERNETES, OPERATOR, KEDA)}
    return {**built, GATEWAY[0]: GATEWAY[1]}


def _cached(name: str, code: Path, derive: Callable[[], Any]) -> Any:
    """What derive gives, from the cache where the same code has derived it before."""
    key = hashlib.sha256(code.read_bytes()).hexdigest()[:12]
    cached = CACHE / f"{name}-{key}.json"
    if not cached.is_file():
        text = json.dumps(derive())
        cached.parent.mkdir(parents=True, exist_ok=True)
        aside = cached.with_suffix(f".{os.getpid()}")
        aside.write_text(text)
        aside.rename(cached)
    return json.loads(cached.read_text())


def _version(module: str, go_mod: Path) -> str:
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"{go_mod} does not require {module}")
    return found[1]


def _module(module: str, version: str) -> Path:
    """The folder of a Go module, downloaded if it has to be."""
    if not shutil.which("go"):
        raise Unavailable("Go is not installed, and the schemas come from Go modules")
    command = ["go", "mod", "download", "-json", f"{module}@{version}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode:
        raise Unavailable(f"{' '.join(command)}: {result.stdout.strip() or result.stderr.strip()}")
    return Path(json.loads(result.stdout)["Dir"])


def _derive(versions: dict[str, str]) -> dict[str, Any]:
    kubernetes = _module(KUBERNETES[0], versions[KUBERNETES[0]]) / "api/openapi-spec/v3"
    schemas: dict[str, Any] = {}
    for file in DOCUMENTS.values():
        for name, schema in json.loads((kubernetes / file).read_text())["components"]["schemas"].items():
            kinds = schema.pop("x-kubernetes-group-version-kind", [])
            schemas[name] = strict(schema)
            schemas[name]["serves"] = [
                {"version": f"{kind['group']}/{kind['version']}".lstrip("/"), "kind": kind["kind"]}
                for kind in kinds
            ]
    for module, file in CRDS.values():
        schemas |= _of_crd(_crd(module, file, versions))
    return schemas


def _crd(module: tuple[str, str], file: str, versions: dict[str, str]) -> dict[str, Any]:
    folder = _module(module[0], versions[module[0]])
    return dict(yaml.load((folder / file).read_text(), yaml.CSafeLoader))


def _of_crd(crd: dict[str, Any]) -> dict[str, Any]:
    """The strict schemas of a CRD's versions by name."""
    schemas = {}
    kind = crd["spec"]["names"]["kind"]
    for version in crd["spec"]["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"$ref": f"{URI}#/$defs/{OBJECT_META}"}
        group_version = f"{crd['spec']['group']}/{version['name']}"
        schema["serves"] = [{"version": group_version, "kind": kind}]
        schemas[f"{kind}.{version['name']}"] = schema
    return schemas


def strict(schema: Any, closing: bool = True) -> Any:
    """The schema with its references made absolute, and closed to fields that it does not name.

    What stands under oneOf and the like repeats fields of the schema that holds it, so it stays open.
    """
    if isinstance(schema, list):
        return [strict(item, closing) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: strict(value, closing and key not in ("oneOf", "anyOf", "allOf", "not"))
        for key, value in schema.items()
        if key not in ("description", "default")
    }
    if isinstance(schema.get("properties"), dict):
        # A field may be called "description" or "default" itself.
        closed["properties"] = {name: strict(child, closing) for name, child in schema["properties"].items()}
        if closing and not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if isinstance(schema.get("$ref"), str):
        closed["$ref"] = schema["$ref"].replace("#/components/schemas/", f"{URI}#/$defs/")
    return closed
