"""Every series that a dashboard or a rule may ask for: who exports it, what kind it is and what it counts.

One that names another fails a test: a misspelt name gives an empty panel or a silent alert, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """unit: what one of it is: s, us, B, J, W, C (degrees), MHz, ratio, or the thing that is counted.

    source: what has to be there for the series to exist. A histogram stands for its _bucket, _sum and _count.
    """

    name: str
    kind: Kind
    unit: str
    source: str


def _all(source: str, *rows: tuple[str, Kind, str]) -> tuple[Metric, ...]:
    return tuple(Metric(name, kind, unit, source) for name, kind, unit in rows)


# What the release itself exports, and what Prometheus says of it.
TRITON = _all(
    "triton",
    ("nv_inference_request_success", "counter", "request"),
    ("nv_inference_request_failure", "counter", "request"),
    ("nv_inference_count", "counter", "request"),
    ("nv_inference_exec_count", "counter", "batch"),
    ("nv_inference_request_duration_us", "counter", "us"),
    ("nv_inference_queue_duration_us", "counter", "us"),
    ("nv_inference_compute_input_duration_us", "counter", "us"),
    ("nv_inference_compute_infer_duration_us", "counter", "us"),
    ("nv_inference_compute_output_duration_us", "counter", "us"),
    ("nv_inference_pending_request_count", "gauge", "request"),
    ("nv_cpu_utilization", "gauge", "ratio"),
    ("nv_cpu_memory_total_bytes", "gauge", "B"),
    ("nv_cpu_memory_used_bytes", "gauge", "B"),
    ("nv_pinned_memory_pool_total_bytes", "gauge", "B"),
    ("nv_pinned_memory_pool_used_bytes", "gauge", "B"),
)
TRITON_GPU = _all(
    "triton on a GPU",
    ("nv_gpu_utilization", "gauge", "ratio"),
    ("nv_gpu_memory_total_bytes", "gauge", "B"),
    ("nv_gpu_memory_used_bytes", "gauge", "B"),
    ("nv_gpu_power_usage", "gauge", "W"),
    ("nv_gpu_power_limit", "gauge", "W"),
    ("nv_energy_consumption", "counter", "J"),
)
LATENCY = _all(
    "latency exporter",
    ("inference_server_duration_seconds", "histogram", "s"),
    ("inference_server_refused_total", "counter", "request"),
)
LOADTEST = _all(
    "load test",
    ("loadtest_request_duration_seconds", "histogram", "s"),
    ("loadtest_users", "gauge", "user"),
    ("loadtest_offered_total", "counter", "request"),
    ("loadtest_in_flight", "gauge", "request"),
    ("loadtest_schedule_lag_seconds", "histogram", "s"),
)
PROMETHEUS = _all("prometheus", ("up", "gauge", "ratio"), ("ALERTS", "gauge", "ratio"))

# What the cluster exports.
KUBE_STATE_METRICS = _all(
    "kube-state-metrics",
    ("kube_pod_status_ready", "gauge", "pod"),
    ("kube_pod_status_phase", "gauge", "pod"),
    ("kube_pod_container_status_restarts_total", "counter", "restart"),
    ("kube_pod_init_container_status_restarts_total", "counter", "restart"),
    ("kube_pod_init_container_status_running", "gauge", "container"),
    ("kube_pod_container_status_waiting_reason", "gauge", "container"),
    ("kube_pod_init_container_status_waiting_reason", "gauge", "container"),
    ("kube_deployment_spec_replicas", "gauge", "pod"),
    ("kube_deployment_status_replicas_available", "gauge", "pod"),
    ("kube_node_status_allocatable", "gauge", "resource"),
    ("kube_pod_container_resource_requests", "gauge", "resource"),
    ("kube_pod_container_resource_limits", "gauge", "resource"),
)
# kube-state-metrics has them of what there is.
AUTOSCALER = _all(
    "autoscaler",
    ("kube_horizontalpodautoscaler_spec_min_replicas", "gauge", "pod"),
    ("kube_horizontalpodautoscaler_spec_max_replicas", "gauge", "pod"),
    ("kube_horizontalpodautoscaler_status_desired_replicas", "gauge", "pod"),
)
CADVISOR = _all(
    "kubelet",
    ("container_cpu_usage_seconds_total", "counter", "s"),
    ("container_memory_working_set_bytes", "gauge", "B"),
)
# Only of containers that have one.
CPU_LIMIT = _all(
    "CPU limit",
    ("container_cpu_cfs_throttled_periods_total", "counter", "period"),
    ("container_cpu_cfs_periods_total", "counter", "period"),
)
DCGM = _all(
    "dcgm-exporter",
    ("DCGM_FI_DEV_GPU_TEMP", "gauge", "C"),
    ("DCGM_FI_DEV_SM_CLOCK", "gauge", "MHz"),
    ("DCGM_FI_DEV_XID_ERRORS", "gauge", "code"),
)
# Only of GPUs that can: Ampere and later.
DCGM_REMAPPING = _all(
    "GPU that remaps rows",
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "failure"),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "row"),
)
# These are commented out in the exporter's own list of counters.
DCGM_ADDED = _all(
    "dcgm-exporter, counters added",
    ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "gauge", "bits"),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "counter", "error"),
)

# What the chart's rules record of them.
RULES = _all(
    "rules",
    ("inference:slo:objective", "gauge", "objective"),
    ("inference:slo_requests:rate5m", "gauge", "request/s"),
    ("inference:slo_errors:rate5m", "gauge", "request/s"),
    *((f"inference:slo_errors:ratio_rate{window}", "gauge", "ratio") for window in
      ("5m", "30m", "1h", "2h", "6h", "1d", "3d")),
    ("inference:slo_error_budget:remaining", "gauge", "ratio"),
    ("inference:requests:rate5m", "gauge", "request/s"),
    ("inference:request_failures:rate5m", "gauge", "request/s"),
    ("inference:requests_refused:rate5m", "gauge", "request/s"),
    ("inference:queue_seconds:mean5m", "gauge", "s"),
    ("inference:request_seconds:mean5m", "gauge", "s"),
    ("inference:batch_size:mean5m", "gauge", "request/batch"),
)  # fmt: skip
LATENCY_RULES = _all(
    "latency exporter",
    ("inference:server_seconds:p50_5m", "gauge", "s"),
    ("inference:server_seconds:p95_5m", "gauge", "s"),
    ("inference:server_seconds:p99_5m", "gauge", "s"),
)
LOADTEST_RULES = _all(
    "load test",
    ("inference:client_seconds:p50_5m", "gauge", "s"),
    ("inference:client_seconds:p95_5m", "gauge", "s"),
    ("inference:client_seconds:p99_5m", "gauge", "s"),
)
SCALING_RULES = _all(
    "autoscaling",
    ("inference:autoscaling:requests", "gauge", "request/s"),
    ("inference:autoscaling:queue_seconds", "gauge", "s"),
    ("inference:autoscaling:refused_ratio", "gauge", "ratio"),
    ("inference:autoscaling:replicas_for_objectives", "gauge", "pod"),
)

# What files/global-rules.yaml records, at the Prometheus above the regions.
GLOBAL_RULES = _all(
    "global rules",
    ("inference:global:requests:rate5m", "gauge", "request/s"),
    ("inference:global:region_load:ratio5m", "gauge", "ratio"),
    ("inference:global:slo:objective", "gauge", "ratio"),
    *((f"inference:global:slo_errors:ratio_rate{window}", "gauge", "ratio") for window in
      ("5m", "1h", "6h", "3d")),
    ("inference:global:slo_error_budget:remaining", "gauge", "ratio"),
)  # fmt: skip
# Where regions trace.
GLOBAL_LATENCY_RULES = _all(
    "global rules, latency exporter",
    ("inference:global:server_seconds:p50_5m", "gauge", "s"),
    ("inference:global:server_seconds:p95_5m", "gauge", "s"),
    ("inference:global:server_seconds:p99_5m", "gauge", "s"),
)

METRICS = (
    *TRITON, *TRITON_GPU, *LATENCY, *LOADTEST, *PROMETHEUS,
    *KUBE_STATE_METRICS, *AUTOSCALER, *CADVISOR, *CPU_LIMIT, *DCGM, *DCGM_ADDED, *DCGM_REMAPPING,
    *RULES, *LATENCY_RULES, *LOADTEST_RULES, *SCALING_RULES,
    *GLOBAL_RULES, *GLOBAL_LATENCY_RULES,
)  # fmt: skip


def by_series() -> dict[str, Metric]:
    """The metrics by the names that queries use: a histogram has three of them."""
    found: dict[str, Metric] = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        found |= {f"{metric.name}{suffix}": metric for suffix in suffixes}
    return found
