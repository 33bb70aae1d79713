"""What load-test workers export to Prometheus: the latency that clients see, and how many they are."""

from __future__ import annotations

from collections.abc import Callable

# Fine enough for a p99 of a GPU's few milliseconds, wide enough for a CPU under overload.
BUCKETS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0,
)  # fmt: skip


class Metrics:
    """The histogram loadtest_request_duration_seconds{protocol,outcome} and the gauge loadtest_users.

    Both are in a registry of their own.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram

        self.registry = CollectorRegistry()
        self._durations = Histogram(
            "loadtest_request_duration_seconds",
            "Time from sending a request to having its answer, at the client",
            ["protocol", "outcome"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._users = Gauge("loadtest_users", "Users that this worker runs", registry=self.registry)

    def count_users(self, count: Callable[[], int]) -> None:
        """Asks that function for the number of users whenever somebody reads the metrics."""
        self._users.set_function(count)

    def observe(self, protocol: str, outcome: str, seconds: float) -> None:
        self._durations.labels(protocol, outcome).observe(seconds)

    def serve(self, port: int) -> None:
        """Answers /metrics on that port, in a greenlet. Raises OSError when the port is taken."""
        from gevent.pywsgi import WSGIServer
        from prometheus_client import make_wsgi_app

        WSGIServer(("", port), make_wsgi_app(self.registry), log=None).start()
