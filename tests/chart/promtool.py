"""Prometheus's own tool on the chart's rules: are they valid, and which alerts do given samples fire?"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.package import CHART

from .render import load, render_chart

Group = dict[str, Any]


# What has every alert: on GPUs, with engines and an autoscaler.
AUTOSCALED = {"autoscaling": {"kind": "keda", "requestsPerSecond": 9}}


def groups(*values: dict[str, Any] | Path, namespace: str = "inference") -> list[Group]:
    """Every rule group that the chart renders with these values."""
    manifests = render_chart(*values, namespace=namespace)
    return [
        group
        for manifest in manifests
        if manifest["kind"] == "PrometheusRule"
        for group in manifest["spec"]["groups"]
    ]


def rules(*values: dict[str, Any] | Path) -> list[dict[str, Any]]:
    return [rule for group in groups(*values) for rule in group["rules"]]


def checked(found: Iterable[Group], folder: Path) -> None:
    """Fails where Prometheus would refuse the groups."""
    file = _write(folder / "rules.yaml", {"groups": list(found)})
    _run("check", "rules", file, folder)


def global_groups() -> list[Group]:
    """The rule groups that come with the chart for the Prometheus of all regions."""
    return list(load(CHART / "files" / "global-rules.yaml")["groups"])


def fired(
    found: Sequence[Group],
    series: Mapping[str, str],
    expected: Mapping[str, set[str]],
    folder: Path,
    interval: str = "1m",
    only: str = "",
    every: str = "",
) -> None:
    """Fails unless exactly these alerts fire: by time after the first sample, the names of those that do.

    series: samples in promtool's notation by series, one an interval. only: labels of the alerts to look at.
    every: how often rules are evaluated, if not with each sample.
    """
    asked = [
        {
            "expr": f'group by (alertname) (ALERTS{{alertstate="firing",{only}}})',
            "eval_time": when,
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
        }
        for when, names in expected.items()
    ]
    _test(found, series, asked, folder, interval, every)


def gave(
    found: Sequence[Group],
    series: Mapping[str, str],
    expected: Mapping[str, Mapping[str, float | None]],
    folder: Path,
    interval: str = "1m",
) -> None:
    """Fails unless these expressions have these values, None for none: by time after the first sample.

    An expression gives one series; values are compared to nine digits.
    """
    asked = []
    for when, values in expected.items():
        for expression, value in values.items():
            query = expression
            if value is not None:
                # Nothing where it is right, else what it is: promtool shows that. NaN: none, or several.
                found_value = f"vector(scalar({expression}))"
                query = f"{found_value} unless abs({found_value} - {value}) <= {1e-9 * max(1.0, abs(value))}"
            asked.append({"expr": query, "eval_time": when, "exp_samples": []})
    _test(found, series, asked, folder, interval)


def _test(
    found: Sequence[Group],
    series: Mapping[str, str],
    asked: Sequence[Mapping[str, Any]],
    folder: Path,
    interval: str,
    every: str = "",
) -> None:
    _write(folder / "rules.yaml", {"groups": list(found)})
    test = {
        "interval": interval,
        "input_series": [{"series": name, "values": samples} for name, samples in series.items()],
        "promql_expr_test": list(asked),
    }
    # What is recorded first, then what reads it: in a server the order is any, and it costs an interval.
    names = sorted((group["name"] for group in found), key=lambda name: "-alerts-" in name)
    file = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": every or interval,
        "group_eval_order": names,
        "tests": [test],
    }
    _run("test", "rules", _write(folder / "test.yaml", file), folder)


def _write(file: Path, content: Any) -> Path:
    file.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper))
    return file


def _run(verb: str, what: str, file: Path, folder: Path) -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    command = [promtool, verb, what, file.name]
    # Short and small, it spends a fifth of its time collecting garbage.
    environment = os.environ | {"GOGC": "400"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
