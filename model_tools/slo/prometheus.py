"""PromQL whose answers can be judged by: never empty, never NaN, never older than asked for."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput

if TYPE_CHECKING:
    import requests

TIMEOUT = 20  # seconds for one query


class NoData(Exception):
    """A query gave nothing to judge by; the message is one line that says what is missing."""


class StaleData(NoData):
    """The newest sample is older than the moment that was asked about."""


@dataclass(frozen=True)
class Sample:
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Series:
    """times: unix seconds, increasing; values: as many, all finite."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    """One Prometheus server, through any session (the API server's proxy, or straight to it)."""

    def __init__(self, session: requests.Session, url: str) -> None:
        from prometheus_api_client import PrometheusConnect

        # The client mounts an adapter of its own on the URL; the session's one knows the cluster's TLS.
        adapter = session.get_adapter(url)
        self._client = PrometheusConnect(url=url, session=session, timeout=TIMEOUT)
        session.mount(url, adapter)
        self._session, self._url = session, url

    def samples(self, query: str, at: float) -> list[Sample]:
        """The instant vector at that time. Raises NoData when it is empty or holds no finite number."""
        answer = self._call(self._client.custom_query, query, params={"time": f"{at:.3f}"})
        # A scalar comes as one bare sample, a vector as a list of labelled ones.
        rows = answer if answer and isinstance(answer[0], dict) else []
        found = [Sample(row["metric"], float(row["value"][1])) for row in rows]
        finite = [sample for sample in found if math.isfinite(sample.value)]
        if not finite:
            raise NoData(f"{'only NaN' if found else 'nothing'} for {query}")
        return finite

    def value(self, query: str, at: float) -> float:
        """The one number that the query gives at that time. Raises NoData, or ValueError for several."""
        found = self.samples(query, at)
        if len(found) != 1:
            raise ValueError(f"{len(found)} results for {query}")
        return found[0].value

    def series(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """Every series between start and end, points that are no finite number left out. Raises NoData."""
        from datetime import UTC, datetime

        answer = self._call(
            self._client.custom_query_range,
            query,
            datetime.fromtimestamp(start, UTC),
            datetime.fromtimestamp(end, UTC),
            f"{step:g}",
        )
        found = []
        for row in answer:
            points = [(float(when), float(value)) for when, value in row["values"]]
            points = [point for point in points if math.isfinite(point[1])]
            if points:
                found.append(
                    Series(row["metric"], [when for when, _ in points], [value for _, value in points])
                )
        if not found:
            raise NoData(f"nothing for {query}")
        return found

    def wait_until_scraped(self, selector: str, until: float, patience: float, since: float = 0) -> None:
        """Returns when every series of the selector has a sample at or after that time.

        Series that ended before `since` are of pods that were gone by then. Raises NoData when there is no
        series, StaleData when one stays behind, after patience seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                ages = self.samples(f"timestamp({selector}) >= {since:.0f}", time.time())
                last = min(ages, key=lambda sample: sample.value)
                if last.value >= until:
                    return
                behind = f"{until - last.value:.0f} s older than the window's end"
                problem: NoData = StaleData(f"{selector} of {_who(last.labels)} is {behind}")
            except NoData:
                problem = NoData(f"Prometheus has no {selector}")
            if time.monotonic() > deadline:
                raise problem
            time.sleep(1)

    def version(self) -> str:
        answer = self._session.get(f"{self._url}/api/v1/status/buildinfo", timeout=TIMEOUT)
        answer.raise_for_status()
        return str(answer.json()["data"]["version"])

    def _call(self, ask: Any, *arguments: Any, **options: Any) -> Any:
        import requests
        from prometheus_api_client import PrometheusApiClientException

        try:
            return ask(*arguments, **options)
        except (requests.RequestException, PrometheusApiClientException, KeyError, ValueError) as error:
            raise BadInput(f"Prometheus at {self._url}: {' '.join(str(error).split())[:300]}") from None


def _who(labels: dict[str, str]) -> str:
    return labels.get("pod") or labels.get("instance") or str(labels)
