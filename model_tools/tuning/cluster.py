"""A release of the chart on the current cluster to measure values with."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.console import BadInput, CheckFailed
from model_tools.tuning.sample import Sample, server_parts
from model_tools.values import Values

COUNTERS = (
    "request_success", "exec_count", "count", "queue_duration_us", "compute_input_duration_us",
    "compute_infer_duration_us", "compute_output_duration_us",
)  # fmt: skip
SCRAPE_PATIENCE = 60.0  # seconds until Prometheus has seen the end of a load


@dataclass(frozen=True)
class ClusterRelease:
    """A release that may be changed. base: values files under those that are measured.

    install and sample raise BadInput where the cluster or helm refuse, CheckFailed where a load fails.
    """

    name: str
    namespace: str
    chart: Path
    base: Sequence[Path]
    timeout: int = 600  # seconds for an upgrade

    def install(self, values: Values) -> None:
        """`helm upgrade --install` with the values over the base, until its pods are ready."""
        helm = shutil.which("helm")
        if helm is None:
            raise BadInput("helm is not on PATH")
        files: list[str] = [word for file in self.base for word in ("--values", str(file))]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as over:
            json.dump(values, over)
            over.flush()
            command = [
                helm, "upgrade", "--install", self.name, str(self.chart), "--namespace", self.namespace,
                "--create-namespace", *files, "--values", over.name,
                "--wait", "--timeout", f"{self.timeout}s",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["helm upgrade failed"]
            raise BadInput(f"release {self.name}: {lines[-1].removeprefix('Error: ')}")

    def sample(self, seconds: float | None = None, users: int | None = None) -> Sample:
        """Runs the release's own load test, and reads what Prometheus says of the same time.

        seconds, users: in place of the release's `loadtest.duration` and `loadtest.users`.
        """
        from loadtest.api import LocustApi
        from loadtest.run import Settings, run_load
        from model_tools.kube import Release, service_session
        from model_tools.slo.measure import Source
        from model_tools.slo.prometheus import NoData, Prometheus

        release = Release.load(self.name, self.namespace)
        settings = Settings.from_values(release.values).with_overrides(duration=seconds, users=users)
        api = LocustApi(*service_session(self.namespace, f"{release.fullname}-loadtest", 8089))
        load = run_load(api, settings, lambda stage, part, shown: None)
        if load["total"]["failures"]:
            failure = load["failures"][0]
            failed = f"{load['total']['failures']} of {load['total']['requests']}"
            raise CheckFailed(f"{failed} requests failed: {failure['error']}")
        place = release.values["monitoring"]["prometheus"]
        prometheus = Prometheus(*service_session(place["namespace"], place["service"], place["port"]))
        selector = Source.of(release).server
        window = f"[{max(1, round(load['end'] - load['start']))}s]"
        try:
            prometheus.wait_until_scraped(
                f"nv_inference_request_success{{{selector}}}", load["end"], SCRAPE_PATIENCE, load["start"]
            )
            grown = {
                f"nv_inference_{name}": prometheus.value(
                    f"sum(increase(nv_inference_{name}{{{selector}}}{window}))", load["end"]
                )
                for name in COUNTERS
            }
        except NoData as missing:
            raise CheckFailed(f"Prometheus: {missing}") from None
        return _sample(load, grown)


def _sample(load: dict[str, Any], grown: dict[str, float]) -> Sample:
    total, latency = load["total"], load["total"]["latency"]
    return Sample(
        throughput=total["requests_per_second"],
        **{name: latency[name] for name in ("p50", "p95", "p99", "mean")},
        **server_parts({}, grown),
        requests=total["requests"],
        seconds=load["end"] - load["start"],
        # `loadtest run` waits until its load is steady, and does not say how long it took.
        warm_up=0.0,
        steady=True,
    )
