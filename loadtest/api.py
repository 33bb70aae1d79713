"""Locust's web API at a master, wherever that is."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from loadtest.statistics import merged
from model_tools.console import BadInput, CheckFailed

if TYPE_CHECKING:
    import requests

ANSWER_TIMEOUT = 10.0  # seconds for one call
GONE_AFTER = 15.0  # seconds without any answer until the master counts as gone


@dataclass(frozen=True)
class Snapshot:
    """The master's view at one moment. Counts and histograms grow until they are reset."""

    time: float  # the master's clock, unix seconds
    state: str
    users: int
    problems: list[str]
    workers: list[dict[str, Any]]
    requests: dict[str, int]  # protocol -> requests, failed ones included
    failures: dict[str, int]
    response_times: dict[str, dict[float, int]]  # protocol -> histogram in milliseconds, successes only
    errors: list[dict[str, Any]]  # protocol, error, count
    generators: list[dict[str, Any]]  # what each worker says of itself (locustfile.Session.generator)
    answered: dict[str, int] | None = None  # of an open loop's measured part: answers in its time

    @property
    def answers(self) -> int:
        return sum(self.requests.values())

    @property
    def connected(self) -> int:
        return sum(worker["state"] not in ("missing", "stopped_by_error") for worker in self.workers)

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Snapshot:
        entries = raw["entries"]
        return cls(
            time=raw["time"],
            state=raw["state"],
            users=raw["users"],
            problems=raw["problems"],
            workers=raw["workers"] or [],
            requests={entry["protocol"]: entry["requests"] for entry in entries},
            failures={entry["protocol"]: entry["failures"] for entry in entries},
            response_times={
                entry["protocol"]: {float(key): count for key, count in entry["response_times"].items()}
                for entry in entries
            },
            errors=raw["failures"],
            generators=raw["generators"],
        )

    @property
    def open_loops(self) -> list[dict[str, Any]]:
        return [generator for generator in self.generators if "part" in generator]

    def measured(self) -> Snapshot:
        """Of an open loop: only requests that came due in the measured part, whenever they were answered."""
        parts: dict[str, list[dict[str, Any]]] = {}
        for generator in self.open_loops:
            for protocol, outcomes in generator["protocols"].items():
                parts.setdefault(protocol, []).append(outcomes)
        times = {
            protocol: merged([_histogram(times) for part in outcomes for times in part["times"].values()])
            for protocol, outcomes in parts.items()
        }
        successes = {
            protocol: merged([_histogram(part["times"].get("success", {})) for part in outcomes])
            for protocol, outcomes in parts.items()
        }
        errors: dict[tuple[str, str], int] = {}
        for protocol, outcomes in parts.items():
            for part in outcomes:
                for error, count in part["errors"].items():
                    errors[protocol, error] = errors.get((protocol, error), 0) + count
        counts = {protocol: sum(histogram.values()) for protocol, histogram in times.items()}
        return replace(
            self,
            requests=counts,
            failures={protocol: counts[protocol] - sum(successes[protocol].values()) for protocol in parts},
            response_times=successes,
            errors=[
                {"protocol": protocol, "error": error, "count": count}
                for (protocol, error), count in errors.items()
            ],
            answered={
                protocol: sum(part["answers"] for part in outcomes) for protocol, outcomes in parts.items()
            },
        )

    def sum(self, key: str) -> int:
        """Of that number of all workers' open loops."""
        return sum(int(generator[key]) for generator in self.open_loops)

    @property
    def lag(self) -> dict[float, int]:
        """Milliseconds from due to sent (or held), of all workers' open loops in the measured part."""
        return merged([_histogram(generator["lag"]) for generator in self.open_loops])


class LocustApi:
    """Calls to one master. A master that does not answer for gone_after seconds raises CheckFailed."""

    def __init__(self, session: requests.Session, base: str, gone_after: float = GONE_AFTER) -> None:
        self._session, self._base, self._gone_after = session, base, gone_after

    def snapshot(self, patience: float | None = None) -> Snapshot:
        import requests

        deadline = time.monotonic() + (self._gone_after if patience is None else patience)
        while True:
            try:
                answer = self._session.get(f"{self._base}/loadtest/state", timeout=ANSWER_TIMEOUT)
                if answer.ok:
                    return Snapshot.read(answer.json())
                problem = f"HTTP {answer.status_code}: {_first_line(answer.text)}"
                if answer.status_code == 404:
                    raise BadInput(f"{self._base} is no master of this load test ({problem})")
            except requests.RequestException as error:
                problem = _first_line(str(error))
            if time.monotonic() > deadline:
                raise CheckFailed(f"the load test's master does not answer: {problem}")
            time.sleep(0.5)

    def swarm(self, form: dict[str, Any]) -> None:
        """Starts a run. Raises CheckFailed with Locust's reason when it refuses."""
        answer = self._post("/swarm", form)
        if not answer.get("success"):
            raise CheckFailed(f"Locust refused to start: {answer.get('message', answer)}")

    def begin(self, seconds: float, trace: list[float] | None = None) -> float:
        """What is sent from now on for so many seconds is measured. Returns the master's clock."""
        return float(self._post("/loadtest/begin", json={"seconds": seconds, "trace": trace})["time"])

    def reset(self) -> None:
        self._post("/stats/reset", {})

    def stop(self) -> None:
        self._post("/stop", {})

    def _post(
        self, path: str, form: dict[str, Any] | None = None, json: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        import requests

        try:
            answer = self._session.post(f"{self._base}{path}", data=form, json=json, timeout=ANSWER_TIMEOUT)
        except requests.RequestException as error:
            raise CheckFailed(f"the load test's master does not answer: {_first_line(str(error))}") from None
        if not answer.ok:
            raise CheckFailed(
                f"the load test's master: {path}: HTTP {answer.status_code}: {_first_line(answer.text)}"
            )
        try:
            content: dict[str, Any] = answer.json()
        except ValueError:
            return {}
        return content


def _histogram(raw: dict[str, int]) -> dict[float, int]:
    return {float(key): count for key, count in raw.items()}


def _first_line(text: str) -> str:
    """A line that fits an error message; Kubernetes' Status objects are reduced to their message."""
    import json

    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    return " ".join(text.split())[:200]
