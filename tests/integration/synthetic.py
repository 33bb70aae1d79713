"""Series of every metric that the dashboards know, served over HTTP as exporters would.

Counters rise and gauges move, for a Prometheus without a cluster. There are three releases: one in two
regions, and one without a region in a namespace of its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grafana.metrics import METRICS, Metric
from model_tools.latency.metrics import LADDER

PHASES = {"request": 0.018, "queue": 0.006, "input": 0.001, "infer": 0.010, "output": 0.001}  # seconds, mean
REASONS = {"REJECTED": 0.4, "CANCELED": 0.2, "BACKEND": 0.0, "OTHER": 0.0}  # requests a second
OBJECTIVES = {
    "availability": 0.999, "latency.server.percentile": 0.99, "latency.server.threshold": 0.1,
    "latency.client.p50": 0.05, "latency.client.p95": 0.1, "latency.client.p99": 0.2,
    "queueTime": 0.02, "throughput": 400, "batchSize": 4,
}  # fmt: skip
SLOS = {"availability": 0.0006, "latency": 0.004}  # the share of bad events

Labels = dict[str, str]


@dataclass(frozen=True)
class Release:
    namespace: str
    region: str

    @property
    def where(self) -> Labels:
        return {"namespace": self.namespace, **({"region": self.region} if self.region else {})}

    def pods(self, component: str = "triton") -> list[str]:
        place = self.region[:2] or "xx"
        return [f"inference-system-{component}-7d9c5b8f6-{place}{number}qz" for number in range(2)]

    def job(self, component: str) -> Labels:
        return {**self.where, "job": f"{self.namespace}/inference-system-{component}"}


RELEASES = (Release("inference", "us-central1"), Release("inference", "europe-west4"), Release("plain", ""))


def counter(now: float, each_second: float, phase: float = 0.0) -> float:
    """Rises by that much a second on average, sometimes faster and sometimes slower, never falls."""
    return each_second * (now + 25 * (1 - math.cos(now / 40 + phase)))


def wave(now: float, middle: float, swing: float, phase: float = 0.0) -> float:
    return middle + swing * math.sin(now / 40 + phase)


def samples(metric: Metric, now: float) -> Iterator[tuple[str, Labels, float]]:
    """Every sample of one metric, as (series, labels, value)."""
    for place, release in enumerate(RELEASES):
        yield from _of_release(metric, release, now, place)
    if metric.name == "kube_node_status_allocatable":
        for node in range(4):
            yield metric.name, {"node": f"gpu-{node}", "resource": "nvidia_com_gpu"}, 1.0
    if metric.name.startswith("DCGM_"):
        for node in range(4):
            labels = {"Hostname": f"gpu-{node}", "gpu": "0", "UUID": f"GPU-{node}", "modelName": "Tesla T4"}
            yield metric.name, labels, _dcgm(metric, now, node)


def _dcgm(metric: Metric, now: float, node: int) -> float:
    values = {
        "DCGM_FI_DEV_GPU_TEMP": wave(now, 68 + 3 * node, 4, node),
        "DCGM_FI_DEV_SM_CLOCK": wave(now, 1350, 150, node),
        "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": float(0x4 if node else 0x24),
        "DCGM_FI_DEV_XID_ERRORS": 79.0 if node == 3 else 0.0,
    }
    return values.get(metric.name, 0.0)


def _of_release(
    metric: Metric, release: Release, now: float, place: int
) -> Iterator[tuple[str, Labels, float]]:
    name, job, cluster = metric.name, release.job("triton"), {"namespace": release.namespace}
    model = {"model": "resnet50"}
    if name.startswith("inference:"):
        yield from _recorded(metric, release, now)
    elif name == "inference_server_duration_seconds":
        for number, pod in enumerate(release.pods()):
            for phase, mean in PHASES.items():
                labels = {**job, **model, "version": "1", "pod": pod, "phase": phase}
                yield from _histogram(name, labels, counter(now, 30), mean * (1 + 0.2 * number))
    elif name.startswith("nv_gpu_") or name == "nv_energy_consumption":
        for number, pod in enumerate(release.pods()):
            labels = {**job, "pod": pod, "gpu_uuid": f"GPU-{place}{number}"}
            value = {
                "nv_gpu_utilization": wave(now, 0.6, 0.3, number),
                "nv_gpu_memory_total_bytes": 16e9,
                "nv_gpu_memory_used_bytes": 5e9 + 1e9 * number,
                "nv_gpu_power_usage": wave(now, 58, 12, number),
                "nv_gpu_power_limit": 70.0,
                "nv_energy_consumption": counter(now, 58, number),
            }
            yield name, labels, value[name]
    elif name.startswith("nv_inference_"):
        for number, pod in enumerate(release.pods()):
            labels = {**job, **model, "version": "1", "pod": pod}
            if name == "nv_inference_request_failure":
                for reason, rate in REASONS.items():
                    yield name, {**labels, "reason": reason}, counter(now, rate)
            elif name == "nv_inference_pending_request_count":
                yield name, labels, round(wave(now, 12, 9, number))
            else:
                yield name, labels, counter(now, _triton_rate(name), number)
    elif name.startswith("nv_"):
        for number, pod in enumerate(release.pods()):
            value = {"nv_cpu_utilization": wave(now, 0.5, 0.2, number)}.get(
                name, 8e9 if "total" in name else 3e9
            )
            yield name, {**job, "pod": pod}, value
    elif name == "loadtest_request_duration_seconds":
        for protocol in ("grpc", "http"):
            for outcome, rate in (("success", 200.0), ("UNAVAILABLE", 0.5)):
                labels = {**release.job("loadtest"), "protocol": protocol, "outcome": outcome}
                yield from _histogram(name, labels, counter(now, rate), 0.03 if protocol == "grpc" else 0.04)
    elif name == "loadtest_schedule_lag_seconds":
        yield from _histogram(name, release.job("loadtest"), counter(now, 401), 0.002)
    elif name.startswith("loadtest_"):
        value = {
            "loadtest_users": 32.0,
            "loadtest_offered_total": counter(now, 401),
            "loadtest_in_flight": 9.0,
        }
        yield name, release.job("loadtest"), value[name]
    elif (
        place != 1
    ):  # kube-state-metrics and kubelets are one cluster's: the regions of one namespace share them
        yield from _kubernetes(metric, release, cluster, now)


def _triton_rate(name: str) -> float:
    requests = 300.0
    if name.endswith("_us"):
        seconds = {"request": 0.018, "queue": 0.006, "input": 0.001, "infer": 0.010, "output": 0.001}
        return requests * 1e6 * next(value for part, value in seconds.items() if f"_{part}_duration" in name)
    return {"nv_inference_exec_count": requests / 11}.get(name, requests)


def _kubernetes(
    metric: Metric, release: Release, cluster: Labels, now: float
) -> Iterator[tuple[str, Labels, float]]:
    name = metric.name
    deployment = {**cluster, "deployment": "inference-system-triton"}
    scaler = {**cluster, "horizontalpodautoscaler": "keda-hpa-inference-system-triton"}
    if name.startswith("kube_deployment_"):
        yield name, deployment, 2.0 if name.endswith("available") else 3.0
    elif name.startswith("kube_horizontalpodautoscaler_"):
        yield name, scaler, 2.0 if "min" in name else 4.0
    elif name == "kube_pod_status_ready":
        for number, pod in enumerate(release.pods()):
            for condition in ("true", "false"):
                ready = (condition == "true") == (number == 0)
                yield name, {**cluster, "pod": pod, "condition": condition}, float(ready)
    elif name == "kube_pod_container_status_waiting_reason":
        yield (
            name,
            {**cluster, "pod": release.pods()[1], "container": "triton", "reason": "PodInitializing"},
            1.0,
        )
    elif name in ("kube_pod_container_resource_requests", "kube_pod_container_resource_limits"):
        for pod in release.pods():
            for resource, value in {"cpu": 2.0, "memory": 10 * 2.0**30, "nvidia_com_gpu": 1.0}.items():
                labels = {**cluster, "pod": pod, "container": "triton", "resource": resource}
                yield name, labels, value
    elif name == "kube_pod_container_status_restarts_total":
        for number, pod in enumerate(release.pods()):
            yield name, {**cluster, "pod": pod, "container": "triton"}, float(number)
    elif name.startswith("container_"):
        for pod in (*release.pods(), *release.pods("loadtest-worker")):
            value = {
                "container_cpu_usage_seconds_total": counter(now, 1.4),
                "container_memory_working_set_bytes": wave(now, 4e9, 2e8),
                "container_cpu_cfs_throttled_periods_total": counter(now, 0.3),
                "container_cpu_cfs_periods_total": counter(now, 10),
            }
            yield name, {**cluster, "pod": pod, "container": "triton"}, value[name]


def _recorded(metric: Metric, release: Release, now: float) -> Iterator[tuple[str, Labels, float]]:
    """What the chart's rules would record, for those that they don't (see `serving`)."""
    name, labels = metric.name, {**release.job("triton"), "model": "resnet50"}
    if name == "inference:global:region_load:ratio5m":
        yield name, release.job("triton"), 0.7
        return
    if name.startswith("inference:global:"):
        if release is RELEASES[0]:
            yield from _of_all_regions(metric)
        return
    if name == "inference:slo:objective":
        for objective, value in OBJECTIVES.items():
            yield name, {**release.where, "release": "inference-system", "objective": objective}, value
    elif name.startswith("inference:slo_"):
        for slo, share in SLOS.items():
            value = {
                "inference:slo_requests:rate5m": 600.0,
                "inference:slo_errors:rate5m": 600 * share,
                "inference:slo_error_budget:remaining": 1 - share * 200,
            }
            yield name, {**labels, "slo": slo}, value.get(name, wave(now, share, share / 2))
    elif name == "inference:request_failures:rate5m":
        for reason, rate in REASONS.items():
            yield name, {**labels, "reason": reason}, rate
    elif name.startswith("inference:client_seconds:"):
        for protocol in ("grpc", "http"):
            yield name, {**release.job("loadtest"), "protocol": protocol}, 0.03
    elif name.startswith("inference:autoscaling:"):
        yield name, {**release.where, "release": "inference-system"}, 2.0
    else:
        value = {"request/s": 600.0, "request/batch": 11.0}.get(metric.unit, 0.02)
        yield name, labels, wave(now, value, value / 5)


def _of_all_regions(metric: Metric) -> Iterator[tuple[str, Labels, float]]:
    """What the rules of the Prometheus above the regions record."""
    if ":slo" not in metric.name:
        yield metric.name, {"model": "resnet50"}, 1200.0 if metric.unit == "request/s" else 0.02
        return
    for slo, share in SLOS.items():
        value = {
            "inference:global:slo:objective": OBJECTIVES[
                "availability" if slo == "availability" else "latency.server.percentile"
            ],
            "inference:global:slo_error_budget:remaining": 1 - share * 200,
        }
        yield metric.name, {"model": "resnet50", "slo": slo}, value.get(metric.name, share)


def _histogram(name: str, labels: Labels, count: float, mean: float) -> Iterator[tuple[str, Labels, float]]:
    """Exponentially distributed times with that mean."""
    for bound in LADDER:
        yield f"{name}_bucket", {**labels, "le": f"{bound:g}"}, count * (1 - math.exp(-bound / mean))
    yield f"{name}_bucket", {**labels, "le": "+Inf"}, count
    yield f"{name}_sum", labels, count * mean
    yield f"{name}_count", labels, count


def exposition(now: float, recorded: frozenset[tuple[str, str, str]]) -> str:
    """Everything in Prometheus' text format.

    recorded: what rules record already, as (series, namespace and region, objective).
    """
    text = []
    for metric in METRICS:
        if metric.source == "prometheus":
            continue
        for name, labels, value in samples(metric, now):
            where = f"{labels.get('namespace', '')} {labels.get('region', '')}"
            if (name, where, labels.get("objective", "")) in recorded:
                continue
            told = ",".join(f'{key}="{text}"' for key, text in labels.items())
            text.append(f"{name}{{{told}}} {value!r}")
    return "\n".join(text) + "\n"


@contextmanager
def serving(recorded: frozenset[tuple[str, str, str]]) -> Iterator[str]:
    """The address of an exporter of everything, and at /nothing of nothing. recorded: see exposition()."""
    begin = time.time()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.path == "/metrics"
            body = exposition(time.time() - begin + 1000, recorded).encode() if wanted else b""
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
