"""What the exporter shows to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from model_tools.latency.traces import PHASES, Taken

# Seconds. An estimated percentile is off by less than a step; a share is exact at a bound.
LADDER = (
    0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0,
)  # fmt: skip
MODELS = 256  # models and versions that get series; names come from Triton, but nothing here grows for ever
OUTCOMES = ("used", "refused", "incomplete", "forced")


class Metrics:
    """The series, in a registry of their own. thresholds become bounds of buckets beside LADDER's."""

    def __init__(self, thresholds: Iterable[float], sample_every: int) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._durations = Histogram(
            "inference_server_duration_seconds",
            "Time that Triton took for a traced request which a model computed, by phase",
            ["model", "version", "phase"],
            buckets=sorted({*LADDER, *thresholds}),
            registry=self.registry,
        )
        self._traces = Counter(
            "inference_server_traces",
            "Traces of Triton: used, refused, incomplete (cached, or spans lost), forced by their client",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in OUTCOMES:
            self._traces.labels(outcome)
        self._refusals = Counter(
            "inference_server_refused",
            "Traced requests that found the queue full: nv_inference_request_failure has none of them",
            ["model", "version"],
            registry=self.registry,
        )
        self._refused_documents = Counter(
            "inference_server_trace_documents_refused",
            "Documents sent to the exporter that are no traces of Triton",
            registry=self.registry,
        )
        Gauge(
            "inference_server_trace_sampling", "Triton traces one request in so many", registry=self.registry
        ).set(sample_every)
        self._series: dict[tuple[str, str], list[tuple[str, Any]]] = {}

    def take(self, taken: Taken) -> None:
        for execution in taken.executions:
            for phase, series in self._phases(execution.model, execution.version):
                series.observe(execution.seconds[phase])
        for model, version in taken.refusals:
            if self._phases(model, version):
                self._refusals.labels(model, version).inc()
        # Last: who sees a trace counted sees what it told.
        for outcome, count in taken.outcomes.items():
            self._traces.labels(outcome).inc(count)

    def refuse(self) -> None:
        self._refused_documents.inc()

    def serve(self, host: str, port: int) -> None:
        """Answers /metrics from a thread of its own. Raises OSError when the port can't be used."""
        from prometheus_client import start_http_server

        start_http_server(port, host, self.registry)

    def _phases(self, model: str, version: str) -> list[tuple[str, Any]]:
        """The series of a model by phase; none for one too many."""
        found = self._series.get((model, version))
        if found is None:
            if len(self._series) >= MODELS:
                return []
            found = [(phase, self._durations.labels(model, version, phase)) for phase in PHASES]
            self._refusals.labels(model, version)  # at 0 from the first: what appears later has not increased
            self._series[model, version] = found
        return found
