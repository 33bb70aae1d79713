"""What a release did in a window of time: the server by Prometheus, the client by Locust or Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput
from model_tools.slo.objectives import server_percentile
from model_tools.slo.prometheus import NoData, Prometheus, Series

if TYPE_CHECKING:
    from model_tools.kube import Release

DURATION = "loadtest_request_duration_seconds"
SERVER_DURATION, QUEUE_FULL = "inference_server_duration_seconds", "inference_server_refused_total"
SUCCESS, FAILURE = "nv_inference_request_success", "nv_inference_request_failure"
PATIENCE = 60.0  # seconds to wait until Prometheus has seen the end of the window


@dataclass(frozen=True)
class Source:
    """Where the numbers are: label selectors without braces, and the scrape interval in seconds.

    percentile: the fraction of the requests that slo.latency.server is about; sample_every: one request in so
    many is traced. None and 0 where none are.
    """

    server: str
    client: str
    interval: float
    percentile: float | None = None
    sample_every: int = 0

    @classmethod
    def of(cls, release: Release) -> Source:
        values, name = release.values, release.fullname
        percentile = server_percentile(values)
        return cls(
            server=f'namespace="{release.namespace}",pod=~"{name}-triton-.+",model="{values["model"]["name"]}"',
            client=f'namespace="{release.namespace}",pod=~"{name}-loadtest-worker-.+"',
            interval=seconds(values["monitoring"]["podMonitor"].get("interval") or "15s"),
            percentile=percentile,
            sample_every=values["monitoring"]["serverLatency"]["sampleEvery"] if percentile else 0,
        )


@dataclass(frozen=True)
class Measured:
    """One number, or None with the reason in `detail`. detail may add how the number came about."""

    value: float | None
    detail: str = ""


@dataclass
class Measurement:
    """Everything a report needs. Times in unix seconds, durations in seconds."""

    start: float
    end: float
    values: dict[str, Measured]  # by the objective's name
    series: dict[str, list[Series]] = field(default_factory=dict)
    load: dict[str, Any] | None = None


def read_load(path: Path, release: str | None, namespace: str | None) -> dict[str, Any]:
    """Statistics that `loadtest run --json` wrote. Raises BadInput for another file or release."""
    try:
        load: dict[str, Any] = json.loads(path.read_text())
        float(load["start"]), float(load["end"]), load["total"]["latency"], load["history"]
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path} holds no statistics of `loadtest run --json`") from None
    if (load.get("release"), load.get("namespace")) != (release, namespace):
        other = f"release {load.get('release')} in namespace {load.get('namespace')}"
        raise BadInput(f"{path} is of {other}, not of release {release} in namespace {namespace}")
    return load


def measure(
    prometheus: Prometheus,
    source: Source,
    start: float,
    end: float,
    load: dict[str, Any] | None,
    percentiles: list[str],
    patience: float = PATIENCE,
) -> Measurement:
    """Measures all objectives over [start, end].

    load: Locust's statistics of that window; without them the client's view comes from its Prometheus
    histogram. percentiles: names such as p99. What can't be measured is a Measured without a value, never an
    exception; BadInput is raised only where Prometheus can't be asked at all.
    """
    server = _Server(prometheus, source, start, end, patience)
    fresh = _tried(lambda: server.scraped(SUCCESS))
    client = (
        _from_load(load, percentiles)
        if load
        else _from_histogram(prometheus, source, _window(start, end), end, percentiles)
    )

    def of_server(query: Callable[[], float]) -> Measured:
        return fresh if fresh.value is None else _tried(query)

    values = {
        "availability": _availability(of_server(server.availability), client["availability"]),
        **{f"latency.client.{name}": client[name] for name in percentiles},
        **({"latency.server": _tried(server.latency)} if source.percentile else {}),
        "queueTime": of_server(server.queue_time),
        "throughput": client["throughput"],
        "batchSize": of_server(server.batch_size),
    }
    return Measurement(start, end, values, _series(prometheus, source, start, end), load)


def seen_by_clients(load: Mapping[str, Any], percentiles: list[str]) -> dict[str, Measured]:
    """The clients' objectives by name, from Locust's statistics of a load. percentiles: names such as p99."""
    client = _from_load(load, percentiles)
    latencies = {f"latency.client.{name}": client[name] for name in percentiles}
    return {"availability": client["availability"], **latencies, "throughput": client["throughput"]}


class _Server:
    """What Triton's counters say about the window."""

    def __init__(
        self, prometheus: Prometheus, source: Source, start: float, end: float, patience: float
    ) -> None:
        self._prometheus, self._source, self._patience = prometheus, source, patience
        self._start, self._end, self._window = start, end, _window(start, end)

    def scraped(self, metric: str, extra: str = "") -> float:
        """1, once Prometheus has seen the end of the window in all pods that it saw in it. Raises NoData."""
        selector = self._selector(metric, extra)
        self._prometheus.wait_until_scraped(selector, self._end, self._patience, self._start)
        return 1.0

    def availability(self) -> float:
        answered = self._increase(SUCCESS)
        # A request that its own client gave up is not the service's failure.
        failed = self._increase(FAILURE, 'reason!="CANCELED"')
        if self._source.sample_every:
            # Requests that found the queue full, which only traces have, one in so many.
            full = f"{self._increase(QUEUE_FULL)} * {self._source.sample_every}"
            failed = f"({failed} + ({full} or vector(0)))"
        return self._ratio(answered, f"({answered} + {failed})")

    def latency(self) -> float:
        # Of a container of its own, which may have ended when Triton has not.
        self.scraped(f"{SERVER_DURATION}_count", 'phase="request"')
        buckets = self._increase(f"{SERVER_DURATION}_bucket", 'phase="request"', "by (le) ")
        quantile = f"histogram_quantile({self._source.percentile:g}, {buckets})"
        return self._prometheus.value(quantile, self._end)

    def queue_time(self) -> float:
        return self._ratio(self._increase("nv_inference_queue_duration_us"), self._increase(SUCCESS)) / 1e6

    def batch_size(self) -> float:
        return self._ratio(self._increase("nv_inference_count"), self._increase("nv_inference_exec_count"))

    def _increase(self, metric: str, extra: str = "", by: str = "") -> str:
        return f"sum {by}(increase({self._selector(metric, extra)}{self._window}))"

    def _selector(self, metric: str, extra: str) -> str:
        return f"{metric}{{{','.join(part for part in (self._source.server, extra) if part)}}}"

    def _ratio(self, above: str, below: str) -> float:
        return self._prometheus.value(f"{above} / {below}", self._end)


def _window(start: float, end: float) -> str:
    return f"[{max(1, round(end - start))}s]"


def _availability(server: Measured, client: Measured) -> Measured:
    """The worse of both views: a client sees what never reached the server, the server sees other clients."""
    from model_tools.slo.objectives import human

    seen = [part for part in (server, client) if part.value is not None]
    if server.value is None:
        return server
    shown = ", ".join(
        f"{name} {human(part.value, 'fraction')}" if part.value is not None else f"{name}: {part.detail}"
        for name, part in (("server", server), ("client", client))
    )
    return Measured(min(part.value for part in seen if part.value is not None), shown)


def _from_load(load: Mapping[str, Any], percentiles: list[str]) -> dict[str, Measured]:
    total = load["total"]
    asked, answered = total["requests"], total["successes"]
    offered = (load.get("generator") or {}).get("offered_per_second")
    note = f"{offered:g}/s offered" if offered else f"{load['settings']['users']} users, closed loop"
    if held := (load.get("generator") or {}).get("held"):
        note += f"; {held} requests waited for a place in flight"
    found = {
        "availability": Measured(answered / asked, "") if asked else Measured(None, "no request was sent"),
        "throughput": Measured(total["requests_per_second"], note)
        if answered
        else Measured(None, "no answers"),
    }
    for name in percentiles:
        value = total["latency"].get(name)
        found[name] = (
            Measured(value) if value is not None else Measured(None, f"Locust's statistics have no {name}")
        )
    return found


def _from_histogram(
    prometheus: Prometheus, source: Source, window: str, end: float, percentiles: list[str]
) -> dict[str, Measured]:
    def increase(suffix: str, extra: str = "") -> str:
        labels = ",".join(part for part in (source.client, extra) if part)
        return f"increase({DURATION}_{suffix}{{{labels}}}{window})"

    success = 'outcome="success"'
    answered = f"sum({increase('count', success)})"
    span = float(window.strip("[s]"))
    found = {
        "availability": _tried(lambda: prometheus.value(f"{answered} / sum({increase('count')})", end)),
        "throughput": _tried(lambda: prometheus.value(f"{answered} / {span:g} > 0", end)),
    }
    for name in percentiles:
        query = f"histogram_quantile({float(name[1:]) / 100:g}, sum by (le) ({increase('bucket', success)}))"
        found[name] = _tried(lambda query=query: prometheus.value(query, end))  # type: ignore[misc]
    return found


def _series(prometheus: Prometheus, source: Source, start: float, end: float) -> dict[str, list[Series]]:
    """What the report plots; a series that isn't there is left out."""
    step = max(source.interval, (end - start) / 120)
    over = f"[{round(max(3 * source.interval, 2 * step))}s]"

    def rate(metric: str, by: str = "") -> str:
        return f"sum {by}(rate({metric}{{{source.server}}}{over}))"

    pod = "by (pod, instance) "
    per_request = f"/ {rate(SUCCESS)} / 1e6"
    client = f'sum by (le) (rate({DURATION}_bucket{{{source.client},outcome="success"}}{over}))'
    queries = {
        "throughput": rate(SUCCESS, pod),
        "batch": f"{rate('nv_inference_count', pod)} / {rate('nv_inference_exec_count', pod)}",
        "queue": f"{rate('nv_inference_queue_duration_us')} {per_request}",
        "input": f"{rate('nv_inference_compute_input_duration_us')} {per_request}",
        "infer": f"{rate('nv_inference_compute_infer_duration_us')} {per_request}",
        "output": f"{rate('nv_inference_compute_output_duration_us')} {per_request}",
        **{f"client.p{part}": f"histogram_quantile({part / 100:g}, {client})" for part in (50, 95, 99)},
    }
    found = {}
    for name, query in queries.items():
        try:
            found[name] = prometheus.series(query, start, end, step)
        except NoData:
            continue
    return found


def _tried(query: Callable[[], float]) -> Measured:
    try:
        return Measured(query())
    except NoData as missing:
        return Measured(None, str(missing))


def seconds(duration: str) -> float:
    """A Prometheus duration such as 15s, 1m30s or 500ms in seconds. Raises BadInput."""
    import re

    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
    parts = re.findall(r"(\d+)(ms|[smhdwy])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise BadInput(f"{duration!r} is no duration such as 15s")
    return float(sum(int(number) * units[unit] for number, unit in parts))


def last_window(duration: str) -> tuple[float, float]:
    """The window of that length that ends now."""
    end = time.time()
    return end - seconds(duration), end
