"""What load-test workers export to Prometheus: the latency that clients see, and how many they are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from loadtest.statistics import Histogram

# Fine enough for a p99 of a GPU's few milliseconds, wide enough for a CPU under overload.
BUCKETS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0,
)  # fmt: skip


class Counts:
    """A histogram in seconds that takes many observations at once, which prometheus_client's does not."""

    def __init__(self, name: str, about: str, labels: tuple[str, ...]) -> None:
        self._about = (name, about)
        self._labels = labels
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], milliseconds: Histogram) -> None:
        counts = self._counts.setdefault(labels, [0] * (len(BUCKETS) + 1))
        for value, count in milliseconds.items():
            counts[bisect_left(BUCKETS, value / 1000)] += count
            self._sums[labels] = self._sums.get(labels, 0.0) + value / 1000 * count

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        family = HistogramMetricFamily(*self._about, labels=self._labels)
        bounds = [floatToGoString(bound) for bound in (*BUCKETS, float("inf"))]
        for labels, counts in self._counts.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums.get(labels, 0.0))
        yield family


class Metrics:
    """loadtest_request_duration_seconds{protocol,outcome}, loadtest_users, and what an open loop adds.

    That is loadtest_offered_total, loadtest_schedule_lag_seconds and loadtest_in_flight: 0 in a closed loop.
    All are in a registry of their own.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        self.registry = CollectorRegistry()
        self._durations = Counts(
            "loadtest_request_duration_seconds",
            "Time from sending a request, in an open loop from when it was due, to having its answer",
            ("protocol", "outcome"),
        )
        self._lag = Counts(
            "loadtest_schedule_lag_seconds", "How much later than due an open loop sent its requests", ()
        )
        for histogram in (self._durations, self._lag):
            self.registry.register(histogram)
        self._lag.add((), {})
        self._users = Gauge("loadtest_users", "Users that this worker runs", registry=self.registry)
        self._offered = Counter(
            "loadtest_offered", "Requests that an open loop's schedule asked for", registry=self.registry
        )
        self._in_flight = Gauge(
            "loadtest_in_flight", "Requests of an open loop without an answer yet", registry=self.registry
        )

    def count_users(self, count: Callable[[], int]) -> None:
        """Asks that function for the number of users whenever somebody reads the metrics."""
        self._users.set_function(count)

    def observe(self, protocol: str, outcome: str, seconds: float) -> None:
        self._durations.add((protocol, outcome), {seconds * 1000: 1})

    def observe_all(self, protocol: str, outcome: str, milliseconds: Histogram) -> None:
        self._durations.add((protocol, outcome), milliseconds)

    def schedule(self, offered: int, in_flight: int, lag: Histogram) -> None:
        """offered: requests that came due since the last call; lag: milliseconds of those sent since."""
        self._offered.inc(offered)
        self._in_flight.set(in_flight)
        self._lag.add((), lag)

    def serve(self, port: int) -> None:
        """Answers /metrics on that port, in a greenlet. Raises OSError when the port is taken."""
        from gevent.pywsgi import WSGIServer
        from prometheus_client import make_wsgi_app

        WSGIServer(("", port), make_wsgi_app(self.registry), log=None).start()
