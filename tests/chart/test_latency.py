"""The latency of the server: what Triton, the container beside it and Prometheus are told about it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from .render import ROOT, only, pods, render_chart
from .test_traffic import arguments, container, triton_pod

LOCAL = ROOT / "values" / "local.yaml"
OFF = {"monitoring": {"serverLatency": {"enabled": False}}}


def tracing(pod: dict[str, Any]) -> set[str]:
    words = container(pod, "triton")["args"]
    return {word.removeprefix("--trace-config=") for word in words if word.startswith("--trace-config=")}


def options(pod: dict[str, Any]) -> list[str]:
    return [word for word in container(pod, "latency")["command"] if word.startswith("--")]


def endpoints(*values: Any) -> dict[str, dict[str, Any]]:
    monitor = only(render_chart(*values), "PodMonitor", "-triton")
    return {endpoint["port"]: endpoint for endpoint in monitor["spec"]["podMetricsEndpoints"]}


def test_triton_sends_its_traces_to_the_container_beside_it_and_nowhere_else() -> None:
    pod = triton_pod({"monitoring": {"serverLatency": {"sampleEvery": 13}}})
    (listen,) = (word.removeprefix("--listen=") for word in options(pod) if word.startswith("--listen="))
    assert listen.startswith("127.0.0.1:")
    assert tracing(pod) >= {
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=13",
        f"opentelemetry,url=http://{listen}/v1/traces",
    }
    assert "--sample-every=13" in options(pod)


def test_the_threshold_of_the_objective_is_a_bound_of_the_buckets() -> None:
    assert "--bucket=0.15" in options(triton_pod())
    assert "--bucket=15" in options(triton_pod(LOCAL))
    assert "--bucket=0.0425" in options(triton_pod({"slo": {"latency": {"server": {"threshold": 0.0425}}}}))


def test_without_it_triton_is_what_it_was() -> None:
    pod = triton_pod(OFF)
    assert [each["name"] for each in pod["containers"]] == ["triton", "proxy"]
    assert not tracing(pod)
    assert [variable["name"] for variable in container(pod, "triton")["env"]] == ["EXECUTION_SECONDS"]
    assert set(endpoints(OFF)) == {"metrics"}
    policy = only(render_chart(OFF), "NetworkPolicy", "-triton")
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}.isdisjoint({8004})


def test_an_exporter_that_hangs_holds_up_tritons_end_by_less_than_the_pods_margin() -> None:
    """At its end Triton sends what waits, 2048 spans in documents of 512."""
    variables = {entry["name"]: entry.get("value") for entry in container(triton_pod(), "triton")["env"]}
    timeout = int(str(variables["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"]).removesuffix("s"))
    pod = triton_pod()
    hook = container(pod, "triton")["lifecycle"]["preStop"]["sleep"]["seconds"]
    margin = pod["terminationGracePeriodSeconds"] - hook - int(arguments(pod)["exit-timeout-secs"])
    assert 2048 / 512 * timeout < margin


def test_the_container_serves_as_long_as_triton_and_no_probe_of_its_own_takes_the_pod_out() -> None:
    pod = triton_pod()
    latency = container(pod, "latency")
    assert latency["lifecycle"]["preStop"] == container(pod, "triton")["lifecycle"]["preStop"]
    assert not {"readinessProbe", "livenessProbe", "startupProbe"} & set(latency)


def test_its_series_belong_to_tritons_job_and_its_up_does_not() -> None:
    """Alerts and autoscaling count the `up` of Triton's job as pods."""
    found = endpoints({"region": "us-central1"})
    assert set(found) == {"metrics", "latency"}
    jobs = {each["targetLabel"]: each["replacement"] for each in found["latency"]["relabelings"]}
    assert jobs == {"job": "inference/inference-system-latency", "region": "us-central1"}
    assert found["latency"]["metricRelabelings"] == [
        {"targetLabel": "job", "replacement": "inference/inference-system-triton"}
    ]
    assert "metricRelabelings" not in found["metrics"]
    ports = container(triton_pod(), "latency")["ports"]
    assert {"name": "latency", "containerPort": 8004} in ports
    assert "--port=8004" in options(triton_pod())


def test_the_containers_script_starts_an_exporter_that_ends_again_and_ends_at_once_when_told(
    tmp_path: Path,
) -> None:
    """With a program in place of model-tools that fails, and pauses that take no time."""
    shell = shutil.which("sh")
    assert shell
    for name, script in {"model-tools": 'echo "$@" >> starts; exit 3', "sleep": "exit 0"}.items():
        (tmp_path / name).write_text(f"#!{shell}\n{script}\n")
        (tmp_path / name).chmod(0o755)
    _, *words = container(triton_pod(), "latency")["command"]
    process = subprocess.Popen(
        [shell, *words], cwd=tmp_path, env={"PATH": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    )
    try:
        starts = tmp_path / "starts"
        deadline = time.monotonic() + 30
        while not (starts.is_file() and len(starts.read_text().splitlines()) > 2):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "ended with status 3" in errors
    assert set(starts.read_text().splitlines()) == {
        f"latency-exporter {' '.join(options(triton_pod()))}",
    }


def test_nothing_but_the_loopback_and_prometheus_reaches_it() -> None:
    manifests = render_chart()
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert all(port["targetPort"] != "latency" for port in manifest["spec"]["ports"])
    assert len(pods(manifests)) == 4
