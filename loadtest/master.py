"""What `loadtest run` asks the master beyond Locust's web API: whole histograms, workers' problems."""

from __future__ import annotations

import time
from typing import Any


def add_routes(app: Any, environment: Any, problems: list[str]) -> None:
    """GET /loadtest/state: the run's state and each protocol's counts and response-time histogram (ms)."""

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
