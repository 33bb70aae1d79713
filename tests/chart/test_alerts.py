"""Each alert fires for its fault, when it should, and not for what comes close to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import promtool
from .render import merge

# The last good minute. Rates are of ten minutes at most; two alerts look for one event in a longer time.
FAULT = 15
END = 75
JOB = 'job="inference/inference-system-triton", namespace="inference"'
POD = f'{JOB}, pod="inference-system-triton-a"'
OTHER = POD.replace("triton-a", "triton-b")
MODEL = f'{POD}, model="resnet50", version="1"'
TRACED = f'{MODEL}, phase="request"'
CLIENT = f'{JOB.replace("triton", "loadtest")}, pod="c", protocol="grpc", outcome="success"'
STATE = 'namespace="inference", pod="inference-system-triton-a"'
CRASHING = ', container="triton", reason="CrashLoopBackOff"'
DCGM = f'gpu="0", {STATE}'
EXPORTED = 'gpu="0", exported_namespace="inference", exported_pod="inference-system-triton-a"'
SCALER = 'namespace="inference", horizontalpodautoscaler="keda-hpa-inference-system-triton"'
VALUES: dict[str, Any] = {"autoscaling": {"kind": "keda", "requestsPerSecond": 100, "maxReplicas": 4}}


def counter(before: float, after: float | None = None) -> str:
    """Grows by so much a minute, and from the fault on by so much."""
    rest = before if after is None else after
    return f"0+{before}x{FAULT} {before * FAULT + rest}+{rest}x{END - FAULT}"


def gauge(before: float, after: float | None = None) -> str:
    return f"{before}x{FAULT} {before if after is None else after}x{END - FAULT}"


def ends(before: float) -> str:
    """A series that is scraped no more."""
    return f"{before}x{FAULT} stale"


def traced(within: dict[str, str], of: str) -> dict[str, str]:
    """Traced requests by the bound that they are within, in seconds."""
    name = "inference_server_duration_seconds"
    buckets = {f'{name}_bucket{{{TRACED}, le="{bound}"}}': count for bound, count in within.items()}
    return {**buckets, f'{name}_bucket{{{TRACED}, le="+Inf"}}': of, f"{name}_count{{{TRACED}}}": of}


def seen_by_clients(*counts: str) -> dict[str, str]:
    """What clients had answered within 10 ms, 20 ms and 1 s; in all, as many as the last."""
    name = "loadtest_request_duration_seconds_bucket"
    bounds = zip(("0.01", "0.02", "1", "+Inf"), (*counts, counts[-1]), strict=True)
    return {f'{name}{{{CLIENT}, le="{bound}"}}': count for bound, count in bounds}


def failing(reason: str, a_minute: str) -> dict[str, str]:
    return {f'nv_inference_request_failure{{{MODEL}, reason="{reason}"}}': a_minute}


def queue_full(a_minute: str) -> dict[str, str]:
    """Traced requests, one in seven, that Triton refused at once and counts nowhere."""
    return {f"inference_server_refused_total{{{MODEL}}}": a_minute}


def waiting(milliseconds: float) -> dict[str, str]:
    """1,500 requests a minute that wait 10 ms until the fault, and from then on so long."""
    return {f"nv_inference_queue_duration_us{{{MODEL}}}": counter(15_000_000, 1_500_000 * milliseconds)}


def state(metric: str, labels: str, samples: str) -> dict[str, str]:
    return {f"{metric}{{{STATE}{labels}}}": samples}


# 1,500 requests a minute, and everything as it should be.
HEALTHY = {
    f"up{{{POD}}}": gauge(1),
    f"up{{{OTHER}}}": gauge(1),
    f"nv_inference_request_success{{{MODEL}}}": counter(1500),
    **failing("REJECTED", counter(0)),
    **failing("CANCELED", counter(0)),
    **queue_full(counter(0)),
    **waiting(10),
    f"nv_inference_request_duration_us{{{MODEL}}}": counter(60_000_000),
    f"nv_inference_count{{{MODEL}}}": counter(1500),
    f"nv_inference_exec_count{{{MODEL}}}": counter(150),
    f"nv_inference_pending_request_count{{{MODEL}}}": gauge(10),
    **traced({"0.1": counter(200), "0.15": counter(214), "0.25": counter(214)}, counter(214)),
    **seen_by_clients(counter(1000), counter(1500), counter(1500)),
    **state("kube_pod_status_ready", ', condition="true"', gauge(1)),
    **state("kube_pod_status_ready", ', condition="false"', gauge(0)),
    **state("kube_pod_status_phase", ', phase="Running"', gauge(1)),
    **state("kube_pod_container_status_restarts_total", ', container="triton"', gauge(0)),
    **state("kube_pod_container_status_waiting_reason", CRASHING, gauge(0)),
    **state("kube_pod_init_container_status_restarts_total", ', container="build-engine"', gauge(0)),
    **state("kube_pod_init_container_status_running", ', container="build-engine"', gauge(0)),
    f"kube_horizontalpodautoscaler_status_desired_replicas{{{SCALER}}}": gauge(2),
    f"kube_horizontalpodautoscaler_spec_max_replicas{{{SCALER}}}": gauge(4),
    f"nv_gpu_utilization{{{POD}}}": gauge(0.7),
    f"nv_gpu_utilization{{{OTHER}}}": gauge(0.7),
    f"nv_gpu_memory_used_bytes{{{POD}}}": gauge(8e9),
    f"nv_gpu_memory_total_bytes{{{POD}}}": gauge(16e9),
    f"nv_gpu_power_usage{{{POD}}}": gauge(50),
    f"nv_gpu_power_limit{{{POD}}}": gauge(70),
    f"DCGM_FI_DEV_XID_ERRORS{{{DCGM}}}": gauge(0),
    f"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{DCGM}}}": gauge(3),
    f"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{DCGM}}}": gauge(1),
    f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{DCGM}}}": gauge(0),
    f"DCGM_FI_DEV_GPU_TEMP{{{DCGM}}}": gauge(60),
}  # fmt: skip

# Every number at the edge of what it may be, from the fault on.
NEARLY = {
    **failing("REJECTED", counter(0, 0.5)),
    **failing("CANCELED", counter(0, 750)),
    **waiting(19),
    f"nv_inference_pending_request_count{{{MODEL}}}": gauge(10, 102),
    **traced({"0.1": counter(200, 100), "0.15": counter(214, 212), "0.25": counter(214)}, counter(214)),
    **seen_by_clients(counter(1000, 100), counter(1500, 1490), counter(1500)),
    # A pod that ran to its end, and one restart.
    **state("kube_pod_status_ready", ', condition="false"', gauge(0, 1)),
    **state("kube_pod_status_phase", ', phase="Succeeded"', gauge(1)),
    **state("kube_pod_container_status_restarts_total", ', container="triton"', gauge(0, 1)),
    f"kube_horizontalpodautoscaler_status_desired_replicas{{{SCALER}}}": gauge(2, 3),
    f"nv_gpu_memory_used_bytes{{{POD}}}": gauge(8e9, 15e9),
    # A T4 under load: at its cap, and nobody waits.
    f"nv_gpu_power_usage{{{POD}}}": gauge(50, 70),
    f"DCGM_FI_DEV_GPU_TEMP{{{DCGM}}}": gauge(60, 85),
}  # fmt: skip


def test_what_is_well_or_nearly_not_fires_nothing(tmp_path: Path) -> None:
    quiet: dict[str, set[str]] = {f"{minute}m": set() for minute in range(1, END, 10)}
    promtool.fired(promtool.groups(VALUES), HEALTHY, quiet, tmp_path)
    promtool.fired(promtool.groups(VALUES), HEALTHY | NEARLY, quiet, tmp_path)


SLOW = seen_by_clients(counter(1000, 0), counter(1500, 0), counter(1500))

SLOW_SERVER = traced({"0.1": counter(200, 0), "0.15": counter(214, 0), "0.25": counter(214)}, counter(214))


@pytest.mark.parametrize(
    ("alerts", "minutes", "fault"),
    [
        (["InferenceNoPodAnswers"], 2, {f"up{{{POD}}}": gauge(1, 0), f"up{{{OTHER}}}": gauge(1, 0)}),
        (["InferenceNoPodAnswers"], 2, {f"up{{{POD}}}": ends(1), f"up{{{OTHER}}}": ends(1)}),
        (["InferencePodDown"], 6, {f"up{{{OTHER}}}": gauge(1, 0)}),
        (["InferencePodNotReady"], 42, state("kube_pod_status_ready", ', condition="false"', gauge(0, 1))),
        (
            ["InferencePodRestarts"],
            3,
            state("kube_pod_container_status_restarts_total", ', container="triton"', counter(0, 1)),
        ),
        (
            ["InferencePodRestarts"],
            1,
            state(
                "kube_pod_container_status_waiting_reason",
                CRASHING,
                gauge(0, 1),
            ),
        ),
        (["InferenceQueueTime"], 7, waiting(50)),
        (["InferenceQueueNearlyFull"], 3, {f"nv_inference_pending_request_count{{{MODEL}}}": gauge(10, 103)}),
        (["InferenceRequestsRejected"], 5, failing("REJECTED", counter(0, 30))),
        (["InferenceRequestsRejected"], 5, queue_full(counter(0, 30 / 7))),
        (["InferenceClientLatency"], 6, SLOW),
        (
            ["InferenceEngineBuildFailed"],
            1,
            state("kube_pod_init_container_status_restarts_total", ', container="build-engine"', gauge(0, 1)),
        ),
        (
            ["InferenceEngineBuildSlow"],
            31,
            state("kube_pod_init_container_status_running", ', container="build-engine"', gauge(0, 1)),
        ),
        (
            ["InferenceReplicasAtMaximum"],
            16,
            {f"kube_horizontalpodautoscaler_status_desired_replicas{{{SCALER}}}": gauge(2, 4)},
        ),
        (["InferenceGpuMissing"], 6, {f"nv_gpu_utilization{{{POD}}}": ends(0.7)}),
        (["InferenceGpuMemoryNearlyFull"], 11, {f"nv_gpu_memory_used_bytes{{{POD}}}": gauge(8e9, 15.5e9)}),
        (
            ["InferenceGpuPowerCapped", "InferenceQueueTime"],
            17,
            {f"nv_gpu_power_usage{{{POD}}}": gauge(50, 69), **waiting(50)},
        ),
        (["InferenceGpuXid"], 1, {f"DCGM_FI_DEV_XID_ERRORS{{{DCGM}}}": gauge(0, 79)}),
        (["InferenceGpuXid"], 1, {f"DCGM_FI_DEV_XID_ERRORS{{{EXPORTED}}}": gauge(0, 79)}),
        (["InferenceGpuEcc"], 1, {f"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{DCGM}}}": gauge(3, 4)}),
        (["InferenceGpuEcc"], 1, {f"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{DCGM}}}": gauge(1, 2)}),
        (["InferenceGpuEcc"], 1, {f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{DCGM}}}": gauge(0, 1)}),
        (["InferenceGpuHot"], 11, {f"DCGM_FI_DEV_GPU_TEMP{{{DCGM}}}": gauge(60, 86)}),
        (["InferenceMetricsMissing"], 11, {f"nv_inference_request_success{{{MODEL}}}": ends(1)}),
        (
            ["InferenceMetricsMissing"],
            11,
            {
                f'kube_pod_status_ready{{{STATE}, condition="{condition}"}}': ends(1)
                for condition in ("true", "false")
            },
        ),
        (["InferenceMetricsMissing"], 11, {f"inference_server_duration_seconds_count{{{TRACED}}}": ends(1)}),
    ],
)
def test_a_fault_fires_its_alert_after_so_many_minutes(
    alerts: list[str], minutes: int, fault: dict[str, str], tmp_path: Path
) -> None:
    """A sample a minute; one minute earlier the first of the alerts does not fire yet."""
    # Budgets have tests of their own; for the others nothing reads what is recorded for them.
    others = ("-events", "-budget", "-burn")
    groups = [group for group in promtool.groups(VALUES) if not group["name"].endswith(others)]
    expected = {f"{FAULT + minutes - 1}m": alerts[1:], f"{FAULT + minutes}m": alerts}
    promtool.fired(groups, HEALTHY | fault, expected, tmp_path)


def test_a_release_that_was_never_there_fires_what_pages(tmp_path: Path) -> None:
    promtool.fired(promtool.groups(VALUES), {}, {"0m": set(), "1m": {"InferenceNoPodAnswers"}}, tmp_path)


@pytest.mark.parametrize(
    ("slo", "window", "share", "minutes"),
    [
        # Every request fails, 1,000 times the budget: 14.4 / 1000 of an hour.
        ("availability", "1h", 1.0, 1),
        # 20 times: 14.4 / 20 of an hour.
        ("availability", "1h", 0.02, 44),
        # 10 times, which an hour's window never shows: 6 / 10 of six.
        ("availability", "6h", 0.01, 220),
        # 4 times: 3 / 4 of a day.
        ("availability", "1d", 0.004, 18 * 60 + 12),
        # 1.5 times: 1 / 1.5 of three days.
        ("availability", "3d", 0.0015, 48 * 60 + 12),
        # Nobody is served in time, 100 times a budget of 1 %: 14.4 / 100 of an hour.
        ("latency", "1h", 1.0, 9),
    ],
)
def test_error_budgets_page_when_the_burn_rate_says(
    slo: str, window: str, share: float, minutes: int, tmp_path: Path
) -> None:
    """A whole window of good service, then a constant share of bad events: in a tenth less it is silent."""
    # A rate over five minutes needs a sample every four; of an alert's window an evaluation is a hundredth.
    step = 1 if minutes < 60 else 4
    every = 12 if minutes > 300 else step
    history = {"1h": 60, "6h": 360, "1d": 1440, "3d": 4320}[window]
    total, before, after = 6000 * step, history // step, minutes // step + 2
    bad = int(total * share)

    def grows(good: int, then: int) -> str:
        return f"0+{good}x{before} {good * before + then}+{then}x{after}"

    if slo == "availability":
        series = {
            f"nv_inference_request_success{{{MODEL}}}": grows(total, total - bad),
            **failing("REJECTED", grows(0, bad)),
        }
    else:
        series = traced({"0.15": grows(total, total - bad)}, grows(total, total))
    expected = {
        f"{history + int(minutes * 0.9)}m": set[str](),
        f"{history + minutes}m": {"InferenceErrorBudgetBurn"},
    }
    promtool.fired(
        _of(slo, window),
        series,
        expected,
        tmp_path,
        f"{step}m",
        f'slo="{slo}", window="{window}"',
        f"{every}m",
    )


def test_half_a_budget_is_spent_in_silence(tmp_path: Path) -> None:
    series = {
        f"nv_inference_request_success{{{MODEL}}}": "0+23988x1080",
        **failing("REJECTED", "0+12x1080"),
    }
    for windows, until, every in ((("1h", "6h"), (1, 5, 11), "4m"), (("1d", "3d"), (1, 24, 71), "12m")):
        quiet: dict[str, set[str]] = {f"{hours}h": set() for hours in until}
        promtool.fired(_of("availability", *windows), series, quiet, tmp_path, "4m", every=every)


SHORT = {"1h": "5m", "6h": "30m", "1d": "2h", "3d": "6h"}  # by an alert's window, the one beside it


def _of(slo: str, *windows: str) -> list[promtool.Group]:
    """The rules that an SLO's alerts on these windows need: a day's worth of the others takes seconds."""
    recorded = {"5m", *windows, *(SHORT[window] for window in windows)}
    wanted = [
        rule
        for rule in promtool.rules(VALUES)
        if f'slo="{slo}"' in rule["expr"] or rule.get("labels", {}).get("slo") == slo
        if rule.get("labels", {}).get("window", windows[0]) in windows
        if rule.get("record", "rate5m").rpartition("rate")[2] in recorded
    ]
    return [{"name": slo, "rules": wanted}]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"slo": {"queueTime": 0.06}}, waiting(50)),
        ({"slo": {"latency": {"client": {"p50": 5, "p95": 5, "p99": 5}}}}, SLOW),
        ({"slo": {"latency": {"server": {"threshold": 0.25}}}}, SLOW_SERVER),
        ({"slo": {"availability": 0.95}}, failing("OTHER", counter(0, 60))),
    ],
    ids=["queue time", "latency at clients", "latency at the server", "availability"],
)
def test_a_wider_objective_is_kept_by_what_broke_it(
    values: dict[str, Any], fault: dict[str, str], tmp_path: Path
) -> None:
    quiet: dict[str, set[str]] = {f"{FAULT + 30}m": set()}
    promtool.fired(promtool.groups(merge(VALUES, values)), HEALTHY | fault, quiet, tmp_path)
    with pytest.raises(AssertionError):
        promtool.fired(promtool.groups(VALUES), HEALTHY | fault, quiet, tmp_path)
