"""Real Locust against a real Triton, watched by a real Prometheus: processes on this machine's loopback.

The model is small and waits for a batch, so that neither it nor the load test's own processes need much of a
processor: a load test that lacks one gives no numbers, as it should.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import colours
import processes
import pytest
import requests
from colours import MODEL
from locusts import Load, locust
from processes import loadtest

from grafana import loadtest as loadtest_dashboard
from grafana import metrics
from grafana import triton as triton_dashboard
from grafana.check import check
from grafana.variables import Window
from loadtest.clients import GrpcClient
from loadtest.payloads import ModelInterface
from loadtest.run import Settings, run_load, spawn
from model_tools.console import BadInput, CheckFailed
from model_tools.serve import LocalTriton
from model_tools.slo.measure import Measurement, Source, measure, read_load
from model_tools.slo.prometheus import NoData, Prometheus, StaleData
from model_tools.values import Values

ROOT = Path(__file__).parents[2]
LOCUST = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")]
USERS = 8
TRIES = 3  # a machine may be so busy that a run refuses to give numbers, as it should
QUEUE = 0.1  # seconds that the model waits for more requests than there are users
SETTINGS = Settings(
    users=USERS,
    spawn_rate=100,
    duration=5,
    protocol="both",
    arrival="closed",
    requests_per_second=0,
    workers=1,
)
PERCENTILES = ["p50", "p95", "p99"]


@pytest.fixture(scope="module")
def repository(local_model: Values, tmp_path_factory: pytest.TempPathFactory) -> Path:
    batching = {"maxQueueDelayMicroseconds": round(QUEUE * 1e6)}
    return colours.repository(tmp_path_factory.mktemp("repository"), local_model, batching=batching)


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[LocalTriton]:
    log: list[str] = []
    try:
        with LocalTriton(repository, log=log.append, exit_seconds=0) as triton:
            yield triton
    finally:
        print("\n".join(log))  # pytest shows it with a failure


@pytest.fixture(scope="module")
def load(triton: LocalTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    with locust(triton, tmp_path_factory.mktemp("locust")) as load:
        yield load


@pytest.fixture(scope="module")
def prometheus(
    triton: LocalTriton, load: Load, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes both once a second, with the labels that a PodMonitor would give."""
    jobs = {"triton": triton.metrics, "loadtest-worker": load.metrics}
    config = {
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [
                    {
                        "targets": [target],
                        "labels": {"namespace": "inference", "pod": f"r-inference-system-{job}-0"},
                    }
                ],
            }
            for job, target in jobs.items()
        ],
    }
    with processes.prometheus(tmp_path_factory.mktemp("prometheus"), config) as url:
        yield Prometheus(requests.Session(), url)


SOURCE = Source(
    server='namespace="inference",pod=~"r-inference-system-triton-.+",model="colours"',
    client='namespace="inference",pod=~"r-inference-system-loadtest-worker-.+"',
    interval=1.0,
)


@pytest.fixture(scope="module")
def statistics(
    load: Load, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What `loadtest run` wrote about one load of both protocols."""
    file = tmp_path_factory.mktemp("load") / "load.json"
    command = loadtest(
        "run", "--master", load.master, "--users", str(USERS), "--spawn-rate", "100",
        "--duration", "5", "--protocol", "both", "--json", str(file),
    )  # fmt: skip
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        if done.returncode == 0:
            break
        print(done.stderr)  # pytest shows it with a failure
    assert done.returncode == 0, done.stderr
    assert "p99" in done.stdout
    return read_load(file, None, None)


@pytest.fixture(scope="module")
def measurement(statistics: dict[str, Any], prometheus: Prometheus) -> Measurement:
    return measure(prometheus, SOURCE, statistics["start"], statistics["end"], statistics, PERCENTILES)


def test_locust_alone_loads_a_triton_with_every_user_in_flight(triton: LocalTriton, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *LOCUST, "--headless", "--users", str(USERS), "--spawn-rate", "100", "--run-time", "4s",
            "--protocol", "both", "--grpc-url", triton.grpc, "--http-url", triton.http, "--model", MODEL,
            "--only-summary",
            "--json-file", str(tmp_path / "stats"),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries = {entry["method"]: entry for entry in json.loads((tmp_path / "stats.json").read_text())}
    assert set(entries) == {"grpc", "http"}
    for protocol, entry in entries.items():
        assert entry["num_requests"] > 0
        assert entry["num_failures"] == 0
        span = entry["last_request_timestamp"] - entry["start_time"]
        # Little's law: rate times latency is the number in flight; users that wait for each other give 1.
        in_flight = entry["total_response_time"] / 1000 / span
        assert in_flight == pytest.approx(USERS / 2, rel=0.5), protocol


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--model", "colors", "colors"), ("--grpc-url", "127.0.0.1:1", "127.0.0.1:1")],
    ids=["unknown model", "unreachable server"],
)
def test_a_target_that_is_not_there_is_one_line_and_status_2(
    triton: LocalTriton, option: str, value: str, named: str
) -> None:
    options = {"--model": MODEL, "--grpc-url": triton.grpc} | {option: value}
    arguments = [part for pair in options.items() for part in pair]
    done = subprocess.run(
        [*LOCUST, "--headless", "--run-time", "60s", "--loglevel", "ERROR", *arguments],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("loadtest: ")
    assert named in line


def test_smoke_checks_a_real_answer_over_both_protocols(triton: LocalTriton) -> None:
    command = loadtest(
        "smoke", "--grpc-url", triton.grpc, "--http-url", triton.http, "--model", MODEL, "--timeout", "20"
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "grpc: 8 pictures answered" in done.stdout
    assert "http: 8 pictures answered" in done.stdout


def test_one_grpc_user_spreads_its_requests_over_all_servers(triton: LocalTriton, repository: Path) -> None:
    with LocalTriton(repository, exit_seconds=0) as other:
        before = answered(other)
        # What dns:/// makes of a headless Service's name: one target, several addresses.
        client = GrpcClient(f"ipv4:{triton.grpc},{other.grpc}", MODEL, 10)
        interface = ModelInterface.from_metadata(client.metadata())
        client = GrpcClient(f"ipv4:{triton.grpc},{other.grpc}", MODEL, 10, interface)
        request = client.build(interface)[0]
        deadline = time.monotonic() + 20
        # Until both are connected, the first one gets everything.
        while answered(other) == before:
            client.infer(request)
            assert time.monotonic() < deadline, "the second server never got a request"
        before = answered(other)
        for _ in range(40):
            client.infer(request)
        client.close()
        # In turn, so half of them; a channel that clings to one server gives 0 or 40.
        assert 15 <= answered(other) - before <= 25


def answered(triton: LocalTriton) -> int:
    """Requests that a server has answered, by its own statistics."""
    stats = requests.get(f"http://{triton.http}/v2/models/{MODEL}/stats", timeout=5).json()
    return int(stats["model_stats"][0]["inference_stats"]["success"]["count"])


def test_a_run_counts_every_request_and_leaves_out_the_warm_up(statistics: dict[str, Any]) -> None:
    total, protocols = statistics["total"], statistics["protocols"]
    assert statistics["failures"] == []
    assert statistics["end"] - statistics["start"] == pytest.approx(5, abs=1.5)
    assert total["requests"] == sum(part["requests"] for part in protocols.values())
    assert total["successes"] == total["requests"] > 0
    assert total["requests_per_second"] * total["latency"]["mean"] == pytest.approx(USERS, rel=0.35)
    latency = total["latency"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    times = [point["time"] for point in statistics["history"]]
    assert len(times) >= 2
    assert times == sorted(times)
    assert all(statistics["start"] <= when <= statistics["end"] for when in times)
    assert all(point["users"] == USERS for point in statistics["history"])


def test_prometheus_and_locust_agree_about_one_load(
    statistics: dict[str, Any], measurement: Measurement, prometheus: Prometheus
) -> None:
    without_locust = measure(prometheus, SOURCE, statistics["start"], statistics["end"], None, PERCENTILES)
    for name, measured in measurement.values.items():
        other = without_locust.values[name]
        assert measured.value is not None, f"{name}: {measured.detail}"
        assert other.value is not None, f"{name}: {other.detail}"
        # Scrapes a second apart shift the window's edges, and buckets are up to half apart; a wrong unit or a
        # forgotten protocol is further off. A pause at an edge moves a tail by more, but not as a unit does.
        within = 30 if name in ("latency.client.p95", "latency.client.p99") else 2
        assert measured.value / within <= other.value <= measured.value * within, name
    assert measurement.values["availability"].value == 1
    queue = measurement.values["queueTime"].value
    assert queue is not None
    # A wrong unit is further off. Queue time is a mean, which one long pause puts above the median latency.
    assert 0 < queue < statistics["total"]["latency"]["max"]
    batch = measurement.values["batchSize"].value
    assert batch is not None
    assert 1 < batch <= USERS
    assert set(measurement.series) >= {"throughput", "batch", "queue", "infer", "client.p99"}


def test_workers_tell_how_many_users_they_run(statistics: dict[str, Any], prometheus: Prometheus) -> None:
    seconds = round(statistics["end"] - statistics["start"])
    users = f"max_over_time(loadtest_users{{{SOURCE.client}}}[{seconds}s])"
    assert prometheus.value(users, statistics["end"]) == USERS


def test_dashboards_read_what_real_servers_and_workers_export(
    statistics: dict[str, Any], prometheus: Prometheus
) -> None:
    """All but what rules record: there are none here."""
    there = {"triton", "load test", "prometheus"}
    for metric in (*metrics.TRITON, *metrics.LOADTEST):
        name = f"{metric.name}_bucket" if metric.kind == "histogram" else metric.name
        assert prometheus.samples(f"count({name})", statistics["end"])
    window = Window(statistics["start"], statistics["end"], step=1, scrape=1)
    findings = check(prometheus, (triton_dashboard.BOARD, loadtest_dashboard.BOARD), window, {}, there)
    assert [fault for finding in findings for fault in finding.faults] == []
    assert sum(finding.has_data for finding in findings) >= 15


def test_an_objective_without_data_has_no_value_but_a_reason(
    statistics: dict[str, Any], prometheus: Prometheus
) -> None:
    elsewhere = Source(
        server=SOURCE.server.replace("inference", "nowhere"), client=SOURCE.client, interval=SOURCE.interval
    )
    found = measure(
        prometheus, elsewhere, statistics["start"], statistics["end"], statistics, PERCENTILES, patience=0
    )
    for name in ("availability", "queueTime", "batchSize"):
        assert found.values[name].value is None
        assert "nv_inference_request_success" in found.values[name].detail


def test_an_empty_answer_of_prometheus_raises(prometheus: Prometheus) -> None:
    now = time.time()
    with pytest.raises(NoData, match="nv_no_such_metric"):
        prometheus.value("nv_no_such_metric", now)
    with pytest.raises(NoData, match="NaN"):
        prometheus.value("vector(0) / vector(0)", now)
    with pytest.raises(NoData):
        prometheus.series("nv_no_such_metric", now - 10, now, 1)
    with pytest.raises(BadInput, match="parse error"):
        prometheus.value("sum(", now)


def test_a_sample_from_before_the_window_ended_is_stale(prometheus: Prometheus) -> None:
    prometheus.wait_until_scraped("up", time.time(), patience=10)
    with pytest.raises(StaleData, match="older"):
        prometheus.wait_until_scraped("up", time.time() + 3600, patience=1)
    with pytest.raises(NoData):  # a series that had ended before the window began is no part of it
        prometheus.wait_until_scraped("up", time.time(), patience=0, since=time.time() + 3600)
    with pytest.raises(NoData, match="nv_no_such_metric"):
        prometheus.wait_until_scraped("nv_no_such_metric", time.time(), patience=0)


def test_a_worker_that_finds_no_model_ends_the_run_with_its_reason(load: Load) -> None:
    load.api.swarm({**SETTINGS.form, "model": "colors"})
    try:
        with pytest.raises(BadInput, match=r"colors.*NOT_FOUND"):
            spawn(load.api, SETTINGS, lambda *_: None)
    finally:
        load.api.stop()
        load.api.swarm({**SETTINGS.form, "user_count": 1, "model": MODEL})  # as it was
        load.api.stop()


def test_a_missing_worker_is_bad_input(load: Load) -> None:
    settings = SETTINGS.with_overrides(workers=2)
    with pytest.raises(BadInput, match="1 of 2 load-test workers"):
        run_load(load.api, settings, lambda *_: None, patience=0)


def test_a_load_does_not_begin_while_another_one_runs(load: Load) -> None:
    load.api.swarm(SETTINGS.form)
    try:
        with pytest.raises(BadInput, match=r"another load .* --replace"):
            run_load(load.api, SETTINGS, lambda *_: None, patience=0)
        assert load.api.snapshot().state in ("spawning", "running"), "the other load goes on"
    finally:
        load.api.stop()


@pytest.mark.parametrize(
    ("victim", "complaint"), [("worker", "worker is gone"), ("master", "master does not answer")]
)
def test_a_run_that_loses_a_process_fails_and_says_which(
    triton: LocalTriton, tmp_path: Path, victim: str, complaint: str
) -> None:
    measuring = threading.Event()

    def report(stage: str, part: float, shown: str) -> None:
        if stage == "Warming up":
            measuring.set()

    with locust(triton, tmp_path) as load:

        def kill() -> None:
            assert measuring.wait(60)
            load.processes[victim].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(CheckFailed, match=complaint):
            run_load(load.api, SETTINGS.with_overrides(duration=60), report)
        killer.join()
