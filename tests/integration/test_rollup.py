"""Two regions federated by a third Prometheus say of the service what one that sees every pod would say.

Real servers: one a region with the chart's rules, one that federates both with the scrape configuration and
the rules that come with the chart, and one that scrapes every pod itself. What they scrape are lines:
counters that are a function of time, with ten minutes of it behind them, so that every window is full.
"""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import processes
import pytest
import requests
import yaml
from chart.promtool import groups

from charts.package import CHART
from model_tools.slo.prometheus import NoData, Prometheus

HISTORY = 600.0  # seconds
STEP = 15.0
PATIENCE = 60.0
TOLERANCE = 1e-3
BOUNDS = ("0.01", "0.02", "0.05", "0.1", "0.15", "0.2", "0.5", "+Inf")
PODS = 2


@dataclass(frozen=True)
class Region:
    """requests, failed, cancelled: a second and pod. within: share by bound. traced: one in so many."""

    name: str
    requests: float
    failed: float
    cancelled: float
    within: tuple[float, ...]
    traced: int
    availability: float

    @property
    def values(self) -> dict[str, Any]:
        return {
            "region": self.name,
            "slo": {"availability": self.availability, "latency": {"server": {"threshold": 0.15}}},
            "monitoring": {"serverLatency": {"sampleEvery": self.traced}},
        }

    def rates(self) -> dict[str, float]:
        """What a pod counts a second, by series."""
        of = 'model="resnet50",version="1"'
        traces = self.requests / self.traced
        series = "inference_server_duration_seconds"
        buckets = {
            f'{series}_bucket{{{of},phase="request",le="{bound}"}}': traces * share
            for bound, share in zip(BOUNDS, self.within, strict=True)
        }
        return {
            f"nv_inference_request_success{{{of}}}": self.requests,
            f'nv_inference_request_failure{{{of},reason="OTHER"}}': self.failed,
            f'nv_inference_request_failure{{{of},reason="CANCELED"}}': self.cancelled,
            f'{series}_count{{{of},phase="request"}}': traces,
            **buckets,
        }

    def labels(self, pod: int) -> dict[str, str]:
        """What a PodMonitor of the chart gives to the pod's series."""
        return {
            "job": "inference/inference-system-triton", "namespace": "inference", "endpoint": "metrics",
            "pod": f"{self.name}-{pod}", "instance": f"{self.name}-{pod}:8002", "region": self.name,
        }  # fmt: skip


# The large one does well; the small one fails every fourth request, is slow, and traces less.
A = Region("a", 400, 0.4, 40, (0.1, 0.5, 0.9, 0.98, 0.999, 0.9995, 1, 1), traced=7, availability=0.99)
B = Region("b", 30, 10, 0, (0, 0, 0.1, 0.3, 0.6, 0.72, 0.9, 1), traced=10, availability=0.999)


def counted(rate: float, at: float, since: float) -> str:
    return repr(rate * (at - since))


class Pods(http.server.BaseHTTPRequestHandler):
    """/REGION/POD: that pod's counters now, each with the time that it is of."""

    since = 0.0

    def do_GET(self) -> None:
        region = {"a": A, "b": B}[self.path.split("/")[1]]
        now = round(time.time(), 3)
        lines = (
            f"{series} {counted(rate, now, self.since)} {now * 1000:.0f}\n"
            for series, rate in region.rates().items()
        )
        body = "".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def pods(since: float) -> Iterator[str]:
    """The address of every pod."""
    handler = type("Since", (Pods,), {"since": since})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def backfill(regions: Iterable[Region], since: float, until: float, folder: Path) -> None:
    """Writes the regions' past into a data directory of Prometheus, as scrapes would have left it."""
    lines = []
    for region in regions:
        for pod in range(PODS):
            labels = ",".join(f'{name}="{value}"' for name, value in region.labels(pod).items())
            for series, rate in region.rates().items():
                times = (since + STEP * step for step in range(int((until - since) / STEP) + 1))
                name = series.replace("}", f",{labels}}}")
                lines += [f"{name} {counted(rate, at, since)} {at:.3f}\n" for at in times]
    source = folder / "history.txt"
    source.write_text("".join(lines) + "# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(folder / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def scraped(regions: Iterable[Region], address: str) -> list[dict[str, Any]]:
    """The scrape configuration of a server that sees these regions' pods."""
    targets = [
        {"targets": [address], "labels": {"__metrics_path__": f"/{region.name}/{pod}", **region.labels(pod)}}
        for region in regions
        for pod in range(PODS)
    ]
    return [{"job_name": "pods", "static_configs": targets}]


@dataclass(frozen=True)
class Servers:
    """regions: each region's own; everywhere: federates them; union: sees every pod of both."""

    regions: dict[str, Prometheus]
    everywhere: Prometheus
    union: Prometheus


def federating(addresses: list[str]) -> list[dict[str, Any]]:
    """The scrape configuration that comes with the chart, for these servers and this test's second."""
    found: list[dict[str, Any]] = yaml.safe_load((CHART / "files" / "global-scrape.yaml").read_text())[
        "scrape_configs"
    ]
    (job,) = found
    return [{**job, "scrape_interval": "1s", "static_configs": [{"targets": addresses}]}]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if not shutil.which("promtool"):
        pytest.skip("prometheus is not installed (Debian: apt install prometheus)")
    since = time.time() - HISTORY
    with ExitStack() as stack:
        address = stack.enter_context(pods(since))
        started: dict[str, str] = {}
        for name, regions in {"a": [A], "b": [B], "union": [A, B]}.items():
            folder = tmp_path_factory.mktemp(name)
            backfill(regions, since, time.time(), folder)
            config: dict[str, Any] = {"scrape_configs": scraped(regions, address)}
            if name != "union":
                # As documented, though what the rules record has its region from the values.
                config["global"] = {"external_labels": {"region": name}}
                config["rule_files"] = ["rules.yaml"]
                (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(regions[0].values)}))
            started[name] = stack.enter_context(processes.prometheus(folder, config))
        config = {
            "scrape_configs": federating([urlsplit(started[name]).netloc for name in "ab"]),
            "rule_files": [str(CHART / "files" / "global-rules.yaml")],
        }
        started["global"] = stack.enter_context(
            processes.prometheus(tmp_path_factory.mktemp("global"), config)
        )
        asked = {name: Prometheus(requests.Session(), url) for name, url in started.items()}
        yield Servers({name: asked[name] for name in "ab"}, asked["global"], asked["union"])


def settled(what: str, condition: Callable[[], bool]) -> None:
    """Returns once the condition, which asks Prometheus, holds; fails after PATIENCE seconds without."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except NoData as missing:
            what = str(missing)
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def now(prometheus: Prometheus, query: str) -> float:
    return prometheus.value(query, time.time())


# One that sees every pod: from their own counters, in requests where they are traces.
BAD = 'sum(rate(nv_inference_request_failure{reason!="CANCELED"}[5m]))'
ALL = f"(sum(rate(nv_inference_request_success[5m])) + {BAD})"


def traced(of: str) -> str:
    """The rate of a series of traces, as requests."""
    metric, _, selector = of.partition("{")
    series, selector = f"inference_server_duration_seconds_{metric}", selector.rstrip("}")
    parts = (f'{each.traced} * rate({series}{{region="{each.name}",{selector}}}[5m])' for each in (A, B))
    return f"({' or '.join(parts)})"


SLOW = f"""(sum({traced("count")}) - sum({traced('bucket{le="0.15"}')}))"""
TRACED = f"sum({traced('count')})"


@pytest.fixture(scope="module")
def steady(servers: Servers) -> Servers:
    """Once the sums over the regions are all of the traffic, as the one that sees every pod knows it."""
    sums = {
        'inference:global:slo_requests:rate5m{slo="availability"}': ALL,
        'inference:global:slo_requests:rate5m{slo="latency"}': TRACED,
        'inference:global:server_duration_seconds_bucket:rate5m{le="+Inf"}': TRACED,
    }
    for recorded, whole in sums.items():
        settled(
            f"{recorded} is not all of the traffic",
            lambda: now(servers.everywhere, recorded) == pytest.approx(now(servers.union, whole), TOLERANCE),  # noqa: B023
        )
    return servers


@pytest.mark.parametrize(("slo", "bad", "all_"), [("availability", BAD, ALL), ("latency", SLOW, TRACED)])
def test_the_share_of_bad_events_is_that_of_the_union(steady: Servers, slo: str, bad: str, all_: str) -> None:
    recorded = now(steady.everywhere, f'inference:global:slo_errors:ratio_rate5m{{slo="{slo}"}}')
    assert recorded == pytest.approx(now(steady.union, f"{bad} / {all_}"), TOLERANCE)
    ratios = f'inference:slo_errors:ratio_rate5m{{slo="{slo}"}}'
    mean = sum(now(each, ratios) for each in steady.regions.values()) / 2
    assert mean > 1.5 * recorded, "regions so alike that a mean of their ratios would pass"


@pytest.mark.parametrize(("name", "quantile"), [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)])
def test_a_percentile_is_that_of_the_union(steady: Servers, name: str, quantile: float) -> None:
    recorded = now(steady.everywhere, f"inference:global:server_seconds:{name}_5m")
    buckets = f"sum by (le) {traced('bucket')}"
    assert recorded == pytest.approx(
        now(steady.union, f"histogram_quantile({quantile}, {buckets})"), TOLERANCE
    )
    own = f"inference:server_seconds:{name}_5m"
    mean = sum(now(each, own) for each in steady.regions.values()) / 2
    assert abs(mean / recorded - 1) > 0.1, "regions so alike that a mean of their percentiles would pass"
    # Traces of regions that trace unlike shares don't add up to it either.
    unscaled = "sum by (le) (rate(inference_server_duration_seconds_bucket[5m]))"
    if name == "p99":
        assert (
            abs(now(steady.union, f"histogram_quantile({quantile}, {unscaled})") / recorded - 1)
            > 10 * TOLERANCE
        )


def test_the_objective_is_the_stricter_of_the_two(steady: Servers) -> None:
    objective = 'inference:global:slo:objective{slo="availability"}'
    settled(
        f"{objective} is not {B.availability}", lambda: now(steady.everywhere, objective) == B.availability
    )


def test_a_handful_of_series_is_federated(steady: Servers) -> None:
    """One a bound, requests, throughput, and of each of two SLOs requests, errors and the objective."""
    scraped = 'scrape_samples_scraped{job="inference-regions"}'
    for sample in steady.everywhere.samples(scraped, time.time()):
        assert sample.value == len(BOUNDS) + 2 + 2 * 3, json.dumps(sample.labels)
    regions = "count by (region, job, namespace) (inference:slo_requests:rate5m)"
    found = {
        (each.labels.get("region"), each.labels["job"])
        for each in steady.everywhere.samples(regions, time.time())
    }
    assert found == {(each.name, "inference/inference-system-triton") for each in (A, B)}
