"""values.yaml, values.schema.json, README.md and the templates speak of the same values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from charts.package import CHART
from charts.reference import Value, values

from .render import ROOT, Refused, chart, merge, render_files, setting

VALUES = list(values())
# Passed through, or Helm's own.
OTHERS = ("kube-prometheus-stack", "global")
# `loadtest run` reads them from the release and sends them with its start: no object holds them.
READ_FROM_THE_RELEASE = {"loadtest.users", "loadtest.spawnRate", "loadtest.duration"}
# What has to be set for a value to matter.
CONTEXTS: dict[str, dict[str, Any]] = {
    "monitoring.serverLatency.enabled": {"monitoring": {"serverLatency": {"enabled": False}}},
    "model.source.pvc.": {"model": {"source": {"type": "pvc", "pvc": {"claimName": "models"}}}},
    "model.source.url": {"model": {"source": {"type": "url", "url": "gs://bucket/model"}}},
    "model.instances.threads": {
        "model": {"runtime": "openvino", "precision": "fp32", "instances": {"kind": "cpu"}}
    },
    "autoscaling.": {
        "autoscaling": {"kind": "keda", "requestsPerSecond": 100},
        "monitoring": {"podMonitor": {"interval": "1s"}},
    },
    "model.versionPolicy.count": {"model": {"versionPolicy": {"kind": "latest"}}},
    "model.batching.defaultPriority": {"model": {"batching": {"priorities": [{}, {}, {}, {}]}}},
    "engine.waitSeconds": {"engine": {"cache": {"type": "pvc"}}},
    "engine.cache.keepDays": {"engine": {"cache": {"type": "pvc"}}},
    "engine.cache.pvc.": {"engine": {"cache": {"type": "pvc"}}},
    "engine.cache.hostPath.": {"engine": {"cache": {"type": "hostPath", "hostPath": {"path": "/engines"}}}},
    "engine.cache.url": {"engine": {"cache": {"type": "url", "url": "gs://bucket/engines"}}},
    "loadtest.requestsPerSecond": {"loadtest": {"arrival": "constant"}},
    # As values/fleet.yaml has it, in the region that holds the Gateway.
    "routing.": {
        "region": "us-central1",
        "autoscaling": {"requestsPerSecond": 280},
        "routing": {
            "kind": "multiClusterGateway",
            "configCluster": "us-central1",
            "hosts": {"http": "inference.example.com", "grpc": "grpc.inference.example.com"},
            "gateway": {"certificateMap": "inference"},
        },
    },
    "routing.healthCheck.": {"routing": {"healthCheck": {"intervalSeconds": 7}}},
    "routing.iap.clientId": {"routing": {"iap": {"secretName": ""}}},
    "routing.loadBalancer.": {
        "routing": {"kind": "loadBalancer", "loadBalancer": {"sourceRanges": ["192.0.2.0/24"]}}
    },
}
# Of these the first that the schema takes, and that is not the value already, stands for "another value".
CANDIDATES: tuple[Any, ...] = (
    False, True, 0.1, 0.15, 3, 30, "another", "/another", "s3://another/model", "7d", "7s",
    "sha256:" + "a" * 64, "example.com/another", [3], [{"key": "another"}], [{"maxSize": 3}],
    [{"seconds": 3, "target": 3}],
    {"another": {"version": 3}}, {"cpu": "3"},
    {"another": "yes"}, "3Gi", "50%", "another.example.com", ["another"], ["198.51.100.0/24"],
)  # fmt: skip

LEAVES = [
    value
    for value in VALUES
    if not value.is_group and not value.path.startswith(OTHERS) and value.path not in READ_FROM_THE_RELEASE
]


def leaves(tree: Any, path: str = "") -> set[str]:
    """The paths of what values.yaml sets; maps that the schema passes through are one value."""
    known = {value.path for value in VALUES if not value.is_group}
    if path in known or not isinstance(tree, dict):
        return {path}
    return {leaf for key, child in tree.items() for leaf in leaves(child, f"{path}.{key}".lstrip("."))}


def test_every_default_is_in_the_schema_and_every_value_of_the_schema_has_a_default() -> None:
    in_schema = {value.path for value in VALUES if not value.is_group and not value.path.startswith(OTHERS)}
    in_values = {path for path in leaves(chart().values) if not path.startswith(OTHERS)}
    assert in_values == in_schema


def test_every_value_has_a_meaning() -> None:
    assert [value.path for value in VALUES if len(value.schema.get("description", "")) < 5] == []


def another(value: Value) -> Any:
    if "enum" in value.schema:
        return next(choice for choice in value.schema["enum"] if choice != value.default)
    definitions = (chart().schema or {})["definitions"]
    schema = {**value.schema, "definitions": definitions}
    for candidate in CANDIDATES:
        if candidate != value.default and Draft7Validator(schema).is_valid(candidate):
            return candidate
    raise AssertionError(f"no candidate fits {value.path}")


@pytest.mark.parametrize("value", LEAVES, ids=lambda value: value.path)
def test_every_value_does_something(value: Value) -> None:
    """Another value gives another render, or a refusal that speaks of it."""
    contexts = [context for prefix, context in CONTEXTS.items() if value.path.startswith(prefix)]
    context = merge(*contexts)
    try:
        outcome: Any = render_files(context, setting(value.path, another(value)))
    except Refused as refused:
        outcome = str(refused)
    assert value.path in outcome if isinstance(outcome, str) else outcome != render_files(context)


@pytest.mark.parametrize("path", sorted(READ_FROM_THE_RELEASE))
def test_what_no_object_holds_is_read_by_the_load_test(path: str) -> None:
    key = path.rpartition(".")[2]
    assert any(f'"{key}"' in file.read_text() for file in (ROOT / "loadtest").rglob("*.py"))


def reference(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charts.reference", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_readme_is_current() -> None:
    result = reference("--check")
    assert result.returncode == 0, result.stderr


def test_a_readme_that_is_not_current_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from charts import reference as module
    from model_tools.console import CheckFailed

    outdated = tmp_path / "README.md"
    outdated.write_text((CHART / "README.md").read_text().replace("`model.name`", "`model.title`"))
    monkeypatch.setattr(module, "README", outdated)
    result = CliRunner().invoke(module.main, ["--check"])
    assert isinstance(result.exception, CheckFailed)
    assert "python -m charts.reference" in str(result.exception)
