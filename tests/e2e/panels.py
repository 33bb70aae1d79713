"""Every panel of every dashboard at once, where everything that they read can be there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import yaml

from charts.package import CHART
from grafana.boards import BOARDS
from grafana.check import Finding, check, faults
from grafana.metrics import METRICS
from grafana.variables import Window
from model_tools.slo.prometheus import Prometheus

from .helm import applied

EVERYTHING = {metric.source for metric in METRICS}
SCRAPE = 5.0  # seconds, as values/local.yaml has it
SHOWN = 180.0  # seconds


def every_panel(prometheus: Prometheus, namespaces: Sequence[str], patience: float) -> list[Finding]:
    """What the last minutes show of these namespaces, as soon as nothing is missing, or after `patience` s.

    Nothing counts as absent with an excuse.
    """
    deadline = time.monotonic() + patience
    while True:
        now = time.time()
        window = Window(now - SHOWN, now, SCRAPE, SCRAPE)
        findings = check(prometheus, BOARDS, window, {"namespace": list(namespaces)}, EVERYTHING)
        whole = all(finding.has_data for finding in findings) and not list(faults(findings))
        if whole or time.monotonic() > deadline:
            return findings
        time.sleep(SCRAPE)


@contextmanager
def above_the_regions(namespace: str) -> Iterator[None]:
    """While the block runs, the cluster's Prometheus has the rules of the one above the regions too."""
    rules = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "above-the-regions"},
        "spec": yaml.safe_load((CHART / "files" / "global-rules.yaml").read_text()),
    }
    with applied(namespace, rules):
        yield
