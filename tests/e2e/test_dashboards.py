"""Every panel of every dashboard shows something, and every metric that is asked for is really exported."""

from __future__ import annotations

import time
from typing import Any

import pytest

from grafana.boards import BOARDS
from grafana.check import check, faults, inventory
from grafana.metrics import METRICS
from grafana.variables import Window
from model_tools.kube import Release
from model_tools.slo.measure import Source, read_load
from model_tools.slo.prometheus import Prometheus

# What comes with the release, and with any cluster that its alerts are meant for.
HERE = {"triton", "prometheus", "kube-state-metrics", "rules"}
# Only there while something is wrong, or waits.
TROUBLE = {
    "ALERTS",
    "kube_pod_container_status_waiting_reason",
    "kube_pod_init_container_status_waiting_reason",
}
PATIENCE = 120.0  # seconds until the rules have recorded what a new release does


@pytest.fixture(scope="module")
def window(release: Release, pytestconfig: pytest.Config) -> Window:
    """That of the load test, and a minute, in which every rule is evaluated; else the last ten minutes.

    What clients see over five minutes is gone soon after the load is: what ran in between does not count.
    """
    path = pytestconfig.getoption("load")
    interval = Source.of(release).interval
    if not path:
        return Window(time.time() - 600, time.time(), interval, interval)
    load = read_load(path, release.name, release.namespace)
    return Window(load["start"] - 4 * interval, load["end"] + 60, interval, interval)


@pytest.fixture(scope="module")
def chosen(release: Release) -> dict[str, list[str]]:
    return {"namespace": [release.namespace]}


def test_every_panel_that_can_have_data_has_some(
    prometheus: Prometheus, window: Window, chosen: dict[str, list[str]], record_property: Any
) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        findings = check(prometheus, BOARDS, window, chosen)
        broken = list(faults(findings))
        if not broken or time.monotonic() > deadline:
            break
        time.sleep(5)
    with_data = sum(finding.has_data for finding in findings)
    print(f"{with_data} of {len(findings)} panels have data")
    record_property("panels_with_data", with_data)
    assert not broken, "\n".join(broken)
    # Those without any need a GPU, DCGM or an autoscaler.
    assert all(finding.has_data or finding.missing for finding in findings)


def test_every_metric_of_what_is_there_is_exported(
    release: Release, prometheus: Prometheus, window: Window
) -> None:
    there = inventory(prometheus, window)
    optional = {
        "load test": release.values["loadtest"]["enabled"],
        "latency exporter": release.values["monitoring"]["serverLatency"]["enabled"],
    }
    assert there >= HERE | {source for source, enabled in optional.items() if enabled}
    names = {
        f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        for metric in METRICS
        if metric.source in there and metric.name not in TROUBLE
    }
    span = round(window.end - window.start)
    query = f'count by (__name__) (last_over_time({{__name__=~"{"|".join(sorted(names))}"}}[{span}s]))'
    found = {sample.labels["__name__"] for sample in prometheus.samples(query, window.end)}
    assert names - found == set()
