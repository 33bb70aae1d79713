"""JSON schemas of everything that the chart renders, from the Go modules that the cluster is built of.

Kubernetes' module carries its OpenAPI documents, the Prometheus operator's and KEDA's their CRDs;
cluster/components names the versions. Unknown fields are refused, which the API server only warns of. What is
derived is kept in the cache, so that Go is needed once a version.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-system" / "schemas"

KUBERNETES = ("k8s.io/kubernetes", "cluster/components/kubernetes/go.mod")
OPERATOR = (
    "github.com/prometheus-operator/prometheus-operator",
    "cluster/components/prometheus-operator/go.mod",
)
KEDA = ("github.com/kedacore/keda/v2", "cluster/components/keda/go.mod")

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
}

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
URI = "urn:kubernetes"


class Unavailable(Exception):
    """The schemas can't be had on this machine; the message says why."""


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
    schemas = load()
    for name, schema in schemas.items():
        if {"version": version, "kind": kind} in schema.get("serves", []):
            registry = Registry().with_resource(URI, DRAFT202012.create_resource({"$defs": schemas}))
            return Draft202012Validator({"$ref": f"{URI}#/$defs/{name}"}, registry=registry)
    raise ValueError(f"no schema for {version} {kind}: name its document in tests/chart/schemas.py")


@cache
def load() -> dict[str, Any]:
    """All schemas by name, made strict. Raises Unavailable."""
    versions = {module: _version(module, ROOT / file) for module, file in (KUBERNETES, OPERATOR, KEDA)}
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    cached = CACHE / f"{'-'.join(versions.values())}-{key}.json"
    if not cached.is_file():
        text = json.dumps(_derive(versions))
        cached.parent.mkdir(parents=True, exist_ok=True)
        aside = cached.with_suffix(f".{os.getpid()}")
        aside.write_text(text)
        aside.rename(cached)
    return dict(json.loads(cached.read_text()))


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
    for kind, ((module, _), file) in CRDS.items():
        crd = yaml.load((_module(module, versions[module]) / file).read_text(), yaml.CSafeLoader)
        for version in crd["spec"]["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"$ref": f"{URI}#/$defs/{OBJECT_META}"}
            group_version = f"{crd['spec']['group']}/{version['name']}"
            schema["serves"] = [{"version": group_version, "kind": kind}]
            schemas[f"{kind}.{version['name']}"] = schema
    return schemas


def strict(schema: Any) -> Any:
    """The schema with its references made absolute, and closed to fields that it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items() if key not in ("description", "default")}
    if isinstance(schema.get("properties"), dict):
        # A field may be called "description" or "default" itself.
        closed["properties"] = {name: strict(child) for name, child in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if isinstance(schema.get("$ref"), str):
        closed["$ref"] = schema["$ref"].replace("#/components/schemas/", f"{URI}#/$defs/")
    return closed
