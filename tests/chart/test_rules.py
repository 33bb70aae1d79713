"""One block of values is where every objective comes from: thresholds, burn rates and alerts follow it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from model_tools.slo.objectives import objectives

from . import promtool
from .promtool import AUTOSCALED, rules
from .render import ROOT, load, merge, setting

VALUES = load(ROOT / "charts" / "inference-system" / "values.yaml")
VALUES["monitoring"]["serverLatency"]["enabled"] = True  # off by default


def changed(path: str, value: Any) -> list[str]:
    """The rules that a value changes."""
    before, after = rules(), rules(setting(path, value))
    return [_named(new) for old, new in zip(before, after, strict=True) if old["expr"] != new["expr"]]


OBJECTIVE, BUDGET = "inference:slo:objective", "inference:slo_error_budget:remaining"


def _named(rule: dict[str, Any]) -> str:
    labels = rule.get("labels", {})
    parts = (labels.get("objective"), labels.get("slo"), labels.get("percentile"))
    parts += (re.search(r'slo="(\w+)"', rule["expr"]) or [None, None])[1], labels.get("window")
    return " ".join([rule.get("record") or rule["alert"], *(part for part in parts if part)])


BURN = [f"InferenceErrorBudgetBurn {{}} {window}" for window in ("1h", "6h", "1d", "3d")]
RATIOS = [f"inference:slo_errors:ratio_rate{window} latency" for window in ("5m", "30m", "1h", "2h")]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "slo.availability",
            0.98,
            [f"{OBJECTIVE} availability", f"{BUDGET} availability"]
            + [alert.format("availability") for alert in BURN],
        ),
        (
            "slo.latency.server.percentile",
            0.98,
            [f"{OBJECTIVE} latency.server.percentile", f"{BUDGET} latency"]
            + [alert.format("latency") for alert in BURN],
        ),
        (
            "slo.latency.server.threshold",
            0.5,
            [f"{OBJECTIVE} latency.server.threshold", "inference:slo_errors:rate5m latency", *RATIOS],
        ),
        ("slo.latency.client.p50", 0.07, [f"{OBJECTIVE} latency.client.p50", "InferenceClientLatency p50"]),
        ("slo.latency.client.p95", 0.17, [f"{OBJECTIVE} latency.client.p95", "InferenceClientLatency p95"]),
        ("slo.latency.client.p99", 0.77, [f"{OBJECTIVE} latency.client.p99", "InferenceClientLatency p99"]),
        (
            "slo.queueTime",
            0.125,
            [f"{OBJECTIVE} queueTime", "InferenceQueueTime", "InferenceGpuPowerCapped"],
        ),
        ("slo.throughput", 1234, [f"{OBJECTIVE} throughput"]),
        ("slo.batchSize", 7.5, [f"{OBJECTIVE} batchSize"]),
        (
            "slo.window",
            "28d",
            [f"{BUDGET} {slo}" for slo in ("availability", "latency")]
            + [alert.format(slo) for slo in ("availability", "latency") for alert in BURN],
        ),
    ],
)
def test_one_number_changes_what_follows_from_it_and_nothing_else(
    path: str, value: Any, expected: list[str]
) -> None:
    assert sorted(changed(path, value)) == sorted(expected)


def test_the_suite_judges_by_the_objectives_that_the_rules_record() -> None:
    recorded = {
        rule["labels"]["objective"]: rule["expr"] for rule in rules() if rule.get("record") == OBJECTIVE
    }
    percentile = recorded.pop("latency.server.percentile")
    assert percentile == f"vector({VALUES['slo']['latency']['server']['percentile']})"
    judged = {objective.name: f"vector({objective.threshold:g})" for objective in objectives(VALUES)}
    judged["latency.server.threshold"] = judged.pop("latency.server")
    assert judged == recorded


@pytest.mark.parametrize(
    ("window", "factors"),
    [("30d", [14.4, 6, 3, 1]), ("4w", [13.44, 5.6, 2.8, 0.933333]), ("7d", [3.36, 1.4, 0.7, 0.233333])],
)
def test_burn_rates_spend_the_same_share_of_any_window(window: str, factors: list[float]) -> None:
    burn = [
        rule["expr"] for rule in rules({"slo": {"window": window}}) if rule.get("alert") == BURN[0].split()[0]
    ]
    for position, factor in enumerate(factors):
        for expression in (burn[position], burn[position + 4]):
            assert re.findall(r"/ 0\.0\d* > (\S+)", expression) == [f"{factor:g}"] * 2


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on() -> None:
    alerts = [rule for rule in rules(AUTOSCALED) if "alert" in rule]
    assert len({alert["alert"] for alert in alerts}) >= 19
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert {"namespace", "release"} <= set(alert["labels"])
        assert {"summary", "description", "runbook_url"} == set(alert["annotations"])
        assert (ROOT / alert["annotations"]["runbook_url"]).is_file(), alert["alert"]
        assert "%!" not in json.dumps(alert)


def test_runbooks_are_of_alerts_that_exist() -> None:
    everywhere = [rule for group in promtool.global_groups() for rule in group["rules"]]
    alerts = {rule.get("alert") for rule in [*rules(AUTOSCALED), *everywhere]}
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("Inference*.md")}
    assert pages == alerts - {None}


def test_runbooks_are_where_the_values_say() -> None:
    published = rules({"monitoring": {"rules": {"runbooks": "https://wiki.example/serving"}}})
    urls = {rule["annotations"]["runbook_url"] for rule in published if "alert" in rule}
    assert all(re.fullmatch(r"https://wiki\.example/serving/Inference\w+\.md", url) for url in urls)


# Or, by its pods, what kube-state-metrics says of the whole cluster, and dcgm-exporter under names that its
# scraper decides about.
OWN = re.compile(
    r'job="inference/inference-system-'
    r'|(exported_)?namespace="inference", '
    r'((exported_)?pod=~"inference-system-triton-|horizontalpodautoscaler=|release="inference-system")'
)


def test_rules_only_read_this_releases_series() -> None:
    for rule in rules(AUTOSCALED):
        if not rule["expr"].startswith("vector("):
            selectors = re.findall(r"\{([^}]*)\}", rule["expr"])
            assert selectors, rule
            for selector in selectors:
                assert OWN.match(selector.strip()), (selector, rule)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"region": "us-central1"},
        {"loadtest": {"enabled": False}},
        {"monitoring": {"serverLatency": {"enabled": False}}},
        {"autoscaling": {"kind": "hpa", "requestsPerSecond": 9}},
        {"slo": {"window": "7d", "latency": {"server": {"threshold": 2}}}},
    ],
)
def test_prometheus_takes_the_rules(values: dict[str, Any], tmp_path: Path) -> None:
    promtool.checked(promtool.groups(values), tmp_path)


def test_without_its_histogram_nothing_asks_for_server_latency() -> None:
    without = json.dumps(rules(merge({}, {"monitoring": {"serverLatency": {"enabled": False}}})))
    assert "inference_server_duration" not in without
    assert 'slo=\\"latency\\"' not in without
    assert "latency.server" not in without
