"""The rules have their thresholds from `slo.*`, parse, and fire when they should."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .render import merge, only, render_chart, setting

JOB = 'job="inference/inference-system-triton", namespace="inference", pod="a"'
CLIENT = 'job="inference/inference-system-loadtest", namespace="inference", pod="c", protocol="grpc"'
MODEL = f'{JOB}, model="resnet50", version="1"'


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    return found


def groups(*values: dict[str, Any]) -> list[dict[str, Any]]:
    return list(only(render_chart(*values), "PrometheusRule", "-slo")["spec"]["groups"])


def changed(path: str, value: float) -> list[str]:
    """The expressions that a value changes, with what they become."""
    before, after = (
        [rule for group in groups(values) for rule in group["rules"]] for values in ({}, setting(path, value))
    )
    return [
        f"{new.get('alert') or new['labels']['objective']}: {new['expr'].strip()}"
        for old, new in zip(before, after, strict=True)
        if old["expr"] != new["expr"]
    ]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("slo.availability", 0.95, ["availability: vector(0.95)", "InferenceAvailability: > 0.05"]),
        ("slo.queueTime", 0.125, ["queueTime: vector(0.125)", "InferenceQueueTime: > 0.125"]),
        (
            "slo.latency.client.p50",
            0.07,
            ["latency.client.p50: vector(0.07)", "InferenceClientLatency: > 0.07"],
        ),
        (
            "slo.latency.client.p95",
            0.17,
            ["latency.client.p95: vector(0.17)", "InferenceClientLatency: > 0.17"],
        ),
        (
            "slo.latency.client.p99",
            0.77,
            ["latency.client.p99: vector(0.77)", "InferenceClientLatency: > 0.77"],
        ),
        ("slo.throughput", 1234, ["throughput: vector(1234)"]),
        ("slo.batchSize", 7.5, ["batchSize: vector(7.5)"]),
    ],
)
def test_one_number_changes_its_objective_and_its_alert_and_no_other(
    path: str, value: float, expected: list[str]
) -> None:
    found = changed(path, value)
    assert len(found) == len(expected)
    for rule, wanted in zip(found, expected, strict=True):
        name, _, end = wanted.partition(": ")
        assert rule.startswith(f"{name}: ")
        assert rule.endswith(end)


def test_no_objective_is_missing_and_none_is_there_twice() -> None:
    rules = [rule for group in groups() for rule in group["rules"]]
    names = [rule["labels"]["objective"] for rule in rules if rule.get("record") == "inference:slo:objective"]
    assert sorted(names) == [
        "availability", "batchSize", "latency.client.p50", "latency.client.p95", "latency.client.p99",
        "queueTime", "throughput",
    ]  # fmt: skip


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    alerts = [rule for group in groups() for rule in group["rules"] if "alert" in rule]
    assert len(alerts) >= 5
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} <= set(alert["annotations"])
        assert "%!" not in json.dumps(alert)


def test_rules_only_read_this_releases_series() -> None:
    for group in groups():
        for rule in group["rules"]:
            if not rule["expr"].startswith("vector("):
                selectors = rule["expr"].count("{")
                assert rule["expr"].count('{job="inference/inference-system-') == selectors > 0, rule


@pytest.mark.parametrize("values", [{}, {"region": "us-central1"}, {"loadtest": {"enabled": False}}])
def test_promtool_takes_the_rules(values: dict[str, Any], promtool: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": groups(values)}))
    result = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


SERVING = {
    f"nv_inference_request_success{{{MODEL}}}": "0+1500x90",
    f'nv_inference_request_failure{{{MODEL}, reason="REJECTED"}}': "0x90",
    f"nv_inference_queue_duration_us{{{MODEL}}}": "0+15000000x90",  # 10 ms a request
    f"nv_inference_request_duration_us{{{MODEL}}}": "0+60000000x90",
    f"nv_inference_count{{{MODEL}}}": "0+1500x90",
    f"nv_inference_exec_count{{{MODEL}}}": "0+150x90",
    f"up{{{JOB}}}": "1x90",
    f'loadtest_request_duration_seconds_bucket{{{CLIENT}, outcome="success", le="0.01"}}': "0+1000x90",
    f'loadtest_request_duration_seconds_bucket{{{CLIENT}, outcome="success", le="0.02"}}': "0+1500x90",
    f'loadtest_request_duration_seconds_bucket{{{CLIENT}, outcome="success", le="+Inf"}}': "0+1500x90",
}
REJECTING = {f'nv_inference_request_failure{{{MODEL}, reason="REJECTED"}}': "0+30x90"}  # 2 % of all
CANCELLING = {f'nv_inference_request_failure{{{MODEL}, reason="CANCELED"}}': "0+30x90"}
WAITING = {f"nv_inference_queue_duration_us{{{MODEL}}}": "0+75000000x90"}  # 50 ms a request
DOWN = {f"up{{{JOB}}}": "0x90"}
ONE_DOWN = {'up{job="inference/inference-system-triton", namespace="inference", pod="b"}': "0x90"}
SLOW = {
    f'loadtest_request_duration_seconds_bucket{{{CLIENT}, outcome="success", le="0.01"}}': "0x90",
    f'loadtest_request_duration_seconds_bucket{{{CLIENT}, outcome="success", le="0.02"}}': "0x90",
    f'loadtest_request_duration_seconds_bucket{{{CLIENT}, outcome="success", le="1"}}': "0+1500x90",
}
LATENCIES = {"slo": {"latency": {"client": {"p50": 5, "p95": 5, "p99": 5}}}}


@pytest.mark.parametrize(
    ("series", "values", "expected"),
    [
        (SERVING, {}, {}),
        (SERVING | REJECTING, {}, {"InferenceAvailability": 1}),
        (SERVING | REJECTING, {"slo": {"availability": 0.95}}, {}),
        (SERVING | CANCELLING, {}, {}),
        (SERVING | WAITING, {}, {"InferenceQueueTime": 1}),
        (SERVING | WAITING, {"slo": {"queueTime": 0.06}}, {}),
        (SERVING | DOWN, {}, {"InferenceNoPodAnswers": 1, "InferencePodDown": 1}),
        ({}, {}, {"InferenceNoPodAnswers": 1}),
        (SERVING | ONE_DOWN, {}, {"InferencePodDown": 1}),
        (SERVING | SLOW, {}, {"InferenceClientLatency": 3}),
        (SERVING | SLOW, LATENCIES, {}),
    ],
    ids=[
        "healthy", "2 % rejected", "2 % rejected, objective 95 %", "clients give up", "queue 50 ms",
        "queue 50 ms, objective 60 ms", "no pod answers", "no pod at all", "one of two pods down",
        "slow for clients", "slow for clients, objective 5 s",
    ],
)  # fmt: skip
def test_exactly_the_right_alerts_fire(
    series: dict[str, str], values: dict[str, Any], expected: dict[str, int], promtool: str, tmp_path: Path
) -> None:
    """After 70 minutes of these series, a sample a minute."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(merge({"region": ""}, values))}))
    firing = [{"labels": f'{{alertname="{alert}"}}', "value": count} for alert, count in expected.items()]
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": samples} for name, samples in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": "70m",
                        "exp_samples": firing,
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    result = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
