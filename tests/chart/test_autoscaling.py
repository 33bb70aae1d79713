"""Who sets the number of pods: the chart or a scaler, never both; and the scaler counts what it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .render import Manifest, merge, only, render_chart

JOB = 'job="inference/inference-system-triton", namespace="inference"'
RELEASE = 'namespace="inference", release="inference-system"'
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"


def scaled(kind: str, **changes: Any) -> dict[str, Any]:
    return {"autoscaling": {"kind": kind, "requestsPerSecond": 100, "maxReplicas": 8, **changes}}


def rules(**values: Any) -> list[dict[str, Any]]:
    (group,) = only(render_chart(merge(scaled("keda"), values)), "PrometheusRule", "-autoscaling")["spec"][
        "groups"
    ]
    return list(group["rules"])


def kinds(manifests: list[Manifest]) -> set[str]:
    return {manifest["kind"] for manifest in manifests}


@pytest.mark.parametrize(
    ("values", "scaler", "replicas"),
    [
        ({}, None, 1),
        (scaled("keda"), "ScaledObject", None),
        (scaled("hpa"), "HorizontalPodAutoscaler", None),
    ],
    ids=["none", "keda", "hpa"],
)
def test_the_deployment_has_replicas_exactly_where_nothing_else_sets_them(
    values: dict[str, Any], scaler: str | None, replicas: int | None
) -> None:
    manifests = render_chart(values)
    assert kinds(manifests) & {"ScaledObject", "HorizontalPodAutoscaler"} == ({scaler} if scaler else set())
    assert only(manifests, "Deployment", "-triton")["spec"].get("replicas") == replicas


@pytest.mark.parametrize(("kind", "scaler"), [("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")])
def test_a_scaler_scales_the_deployment_that_is_there(kind: str, scaler: str) -> None:
    manifests = render_chart(scaled(kind), name="blue")
    target = only(manifests, scaler, "-triton")["spec"]["scaleTargetRef"]
    deployment = only(manifests, "Deployment", "-triton")
    assert target == {key: deployment[key] for key in ("apiVersion", "kind")} | {
        "name": deployment["metadata"]["name"]
    }


def test_both_scalers_have_the_same_bounds_speeds_and_metrics() -> None:
    values = scaled("hpa", minReplicas=2)
    hpa = only(render_chart(values), "HorizontalPodAutoscaler", "-triton")["spec"]
    keda = only(render_chart(merge(values, scaled("keda"))), "ScaledObject", "-triton")["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (2, 8)
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (2, 8)
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    asked = [
        (trigger["metadata"]["query"], trigger["metricType"], trigger["metadata"]["threshold"])
        for trigger in keda["triggers"]
    ]
    served = [
        (
            f"{metric['external']['metric']['name']}",
            metric["external"]["target"]["type"],
            metric["external"]["target"]["averageValue"],
        )
        for metric in hpa["metrics"]
    ]
    assert asked == [
        (f"inference:autoscaling:requests{{{RELEASE}}}", "AverageValue", "100"),
        (f"inference:autoscaling:replicas_for_objectives{{{RELEASE}}}", "AverageValue", "1"),
    ]
    assert served == [
        ("inference_autoscaling_requests", "AverageValue", "100"),
        ("inference_autoscaling_replicas_for_objectives", "AverageValue", "1"),
    ]


def test_every_series_that_a_scaler_asks_for_is_recorded_for_this_release() -> None:
    recorded = {rule["record"] for rule in rules()}
    assert all(rule["labels"] == {"release": "inference-system"} for rule in rules())
    triggers = only(render_chart(scaled("keda")), "ScaledObject", "-triton")["spec"]["triggers"]
    assert {trigger["metadata"]["query"].split("{")[0] for trigger in triggers} <= recorded
    assert {trigger["metadata"]["serverAddress"] for trigger in triggers} == {PROMETHEUS}


def test_an_empty_answer_is_no_answer() -> None:
    """KEDA would take it for 0 requests and remove pods."""
    for trigger in only(render_chart(scaled("keda")), "ScaledObject", "-triton")["spec"]["triggers"]:
        assert trigger["metadata"]["ignoreNullValues"] == "false"


@pytest.mark.parametrize(
    ("window", "interval"), [("60s", "15s"), ("1m", "15s"), ("2s", "500ms"), ("4m", "1m")]
)
def test_a_window_of_four_scrapes_is_long_enough_whatever_its_unit(window: str, interval: str) -> None:
    values = {"monitoring": {"podMonitor": {"interval": interval}}}
    assert render_chart(scaled("keda", window=window), values)


def test_one_region_does_not_scale_by_anothers_requests() -> None:
    spec = only(render_chart(scaled("keda"), {"region": "us-central1"}), "ScaledObject", "-triton")["spec"]
    assert all('region="us-central1"' in trigger["metadata"]["query"] for trigger in spec["triggers"])


def test_zero_pods_keep_a_trigger_that_wakes_the_first() -> None:
    hours = {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "1"}
    cron = {"type": "cron", "metadata": hours}
    values = scaled("keda", minReplicas=0, idleSeconds=60, triggers=[cron])
    spec = only(render_chart(values), "ScaledObject", "-triton")["spec"]
    assert (spec["minReplicaCount"], spec["cooldownPeriod"], spec["triggers"][-1]) == (0, 60, cron)


# --- what the rules count, asked from promtool: 10 minutes of these series, a sample every 15 s


def pod(name: str, requests: float, queue: float = 0.001, refused: float = 0, up: int = 1) -> dict[str, str]:
    """A pod: requests it answers a second, seconds in the queue of each, requests it refuses a second."""
    labels = f'{JOB}, pod="{name}"'
    per_sample = 15 * requests

    def counter(step: float) -> str:
        return f"0+{step:g}x40"

    return {
        f'nv_inference_request_success{{{labels}, model="m"}}': counter(per_sample),
        f'nv_inference_request_failure{{{labels}, model="m", reason="REJECTED"}}': counter(15 * refused),
        f'nv_inference_queue_duration_us{{{labels}, model="m"}}': counter(per_sample * queue * 1e6),
        f"up{{{labels}}}": f"{up}x40",
    }


@pytest.mark.parametrize(
    ("series", "requests", "queue", "replicas"),
    [
        (pod("a", 40) | pod("b", 60), 100, 0.001, 0),
        # 10 requests that wait 0.1 s and 90 that don't wait: 0.01 s a request, not the pods' mean of 0.05 s.
        (pod("a", 10, queue=0.1) | pod("b", 90, queue=0), 100, 0.01, 0),
        (pod("a", 40, queue=0.03) | pod("b", 60, queue=0.03), 100, 0.03, 2.5),
        (pod("a", 40, queue=0.015) | pod("b", 60, queue=0.015), 100, 0.015, 2),
        # What is refused is asked for, and is a missed objective.
        (pod("a", 40, refused=10), 50, 0.001, 1.25),
        (pod("a", 0, refused=50), 50, None, 1.25),
        # Nobody asks: no 0/0, no pods wanted.
        (pod("a", 0), 0, None, 0),
        # One that has not answered yet asks for no further one.
        (pod("a", 50, queue=0.03) | {f'up{{{JOB}, pod="b"}}': "0x40"}, 50, 0.03, 1.25),
        # No data: no series, so that the scaler holds.
        ({}, None, None, None),
    ],
    ids=["calm", "sums before the ratio", "queue above its objective", "above half of it", "refusing",
         "refusing everything", "no traffic", "one still starting", "nothing scraped"],
)  # fmt: skip
def test_the_scaler_is_told(
    series: dict[str, str],
    requests: float | None,
    queue: float | None,
    replicas: float | None,
    tmp_path: Path,
) -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules()}]}))
    wanted = {"requests": requests, "queue_seconds": queue, "replicas_for_objectives": replicas}
    checks = [
        {
            # In whole hundred-thousandths: promtool compares every bit.
            "expr": f"round(1e5 * inference:autoscaling:{name}{{{RELEASE}}})",
            "eval_time": "9m",
            "exp_samples": []
            if value is None
            else [{"labels": f"{{{RELEASE}}}", "value": round(1e5 * value)}],
        }
        for name, value in wanted.items()
    ]
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": checks,
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
