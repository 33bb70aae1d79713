"""What `loadtest run` asks the master beyond Locust's web API: histograms, problems, workers' own limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def add_routes(
    app: Any,
    environment: Any,
    problems: list[str],
    generators: dict[str, dict[str, Any]],
    begin: Callable[[float, list[float] | None], None],
) -> None:
    """GET /loadtest/state: the run's state and each protocol's counts and response-time histogram (ms).

    POST /loadtest/begin {"seconds": number, "trace": [seconds, ...] or null}: what is sent from now on is
    measured; answers with the master's clock.
    """

    @app.route("/loadtest/begin", methods=["POST"])
    def begin_now() -> dict[str, Any]:
        from flask import request

        told = request.get_json()
        now = time.time()
        begin(float(told["seconds"]), told.get("trace"))
        return {"time": now}

    @app.route("/loadtest/state")
    def state() -> dict[str, Any]:
        runner = environment.runner
        workers = getattr(runner, "clients", None)
        return {
            "time": time.time(),
            "state": runner.state,
            "users": runner.user_count,
            "problems": problems,
            "workers": None
            if workers is None
            else [
                {"id": worker.id, "state": worker.state, "users": worker.user_count, "cpu": worker.cpu_usage}
                for worker in workers.values()
            ],
            "generators": list(generators.values()),
            "entries": [
                {
                    "protocol": entry.method,
                    "model": entry.name,
                    "requests": entry.num_requests,
                    "failures": entry.num_failures,
                    "response_times": {str(key): count for key, count in entry.response_times.items()},
                }
                for entry in runner.stats.entries.values()
            ],
            "failures": [
                {"protocol": error.method, "error": _text(error.error), "count": error.occurrences}
                for error in runner.stats.errors.values()
            ],
        }


def _text(error: Any) -> str:
    """Locust keeps a failure as an exception, or as its repr once it has come from a worker."""
    return error if isinstance(error, str) else repr(error)
