"""The chart, rendered in process; every object is validated at every render."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

from charts.package import CHART

from . import schemas

ROOT = Path(__file__).resolve().parents[2]

# The least that has to be said about a release: which images it runs.
IMAGES: dict[str, Any] = {
    "engine": {"image": {"repository": "registry.example/engine", "tag": "1"}},
    "tools": {"image": {"repository": "registry.example/tools", "tag": "1"}},
    "model": {"source": {"image": {"repository": "registry.example/model", "tag": "1"}}},
    # Off by default, and a part of rules, pods and objectives that tests look at.
    "monitoring": {"serverLatency": {"enabled": True}},
}

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm refused the values; the message is what its user sees."""


def render_chart(
    *values: dict[str, Any] | Path, name: str = "inference-system", namespace: str = "inference"
) -> list[Manifest]:
    """The objects that Helm would install with these values, the later ones winning, on top of IMAGES.

    Raises Refused, and ValueError for an object that Kubernetes would not take.
    """
    files = render_files(*values, name=name, namespace=namespace)
    return [
        json.loads(manifest)
        for file, text in files.items()
        if not file.endswith("NOTES.txt")
        for manifest in _manifests(text)
    ]


def render_files(
    *values: dict[str, Any] | Path, name: str = "inference-system", namespace: str = "inference"
) -> dict[str, str]:
    """What each template gives, NOTES.txt among them. Raises Refused."""
    merged = merge(IMAGES, *(load(item) if isinstance(item, Path) else item for item in values))
    return dict(_rendered(json.dumps(merged), name, namespace))


@cache
def _rendered(values: str, name: str, namespace: str) -> dict[str, str]:
    """Every third render is one that another test has asked for."""
    try:
        files = chart().render(json.loads(values), name=name, namespace=namespace)
    except helm_python.HelmError as error:
        raise Refused(str(error)) from error
    # Most files of two renders are the same, and kept once.
    return {file: sys.intern(text) for file, text in files.items()}


def merge(*values: dict[str, Any]) -> dict[str, Any]:
    """Values merged as Helm does it: maps key by key, anything else replaced."""
    merged: dict[str, Any] = {}
    for layer in values:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def setting(path: str, value: Any) -> dict[str, Any]:
    """Values with one key set: setting("a.b", 1) is {"a": {"b": 1}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def layers(file: Path) -> list[dict[str, Any]]:
    """A file of values/, and what it is laid over: no ladder for CPUs and no region is whole by itself."""
    under = {"cpu": "local.yaml", "regions": "fleet.yaml"}.get(file.parent.name)
    return [load(ROOT / "values" / under), load(file)] if under else [load(file)]


def load(file: Path) -> dict[str, Any]:
    return dict(json.loads(_read(file.read_text())))


@cache
def _read(text: str) -> str:
    """YAML as JSON, which is read in a tenth of the time."""
    return json.dumps(yaml.load(text, yaml.CSafeLoader))


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def only(manifests: list[Manifest], kind: str, suffix: str) -> Manifest:
    """The one object of a kind whose name ends so."""
    found = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} end with {suffix}"
    return found[0]


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pods of all objects, metadata and spec, by kind and name."""
    found = {}
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            found[name] = manifest
        elif "template" in manifest.get("spec", {}):
            found[name] = manifest["spec"]["template"]
    return found


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@cache
def _manifests(text: str) -> list[str]:
    """The objects of a rendered file, valid, as JSON: most renders change one file of a dozen."""
    manifests = [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]
    for manifest in manifests:
        _validate(json.dumps(manifest))
    return [json.dumps(manifest) for manifest in manifests]


@cache
def _validate(manifest: str) -> None:
    with contextlib.suppress(schemas.Unavailable):  # test_schemas.py says so
        schemas.validate(json.loads(manifest))
