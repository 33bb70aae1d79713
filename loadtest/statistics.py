"""Response-time histograms: their buckets, differences and percentiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Histogram = Mapping[float, int]  # response time in milliseconds -> how many


def bucket(milliseconds: float) -> float:
    """The histogram key of a response time: three significant digits, at least 0.01 ms."""
    if milliseconds < 10:
        return round(milliseconds, 2)
    if milliseconds < 100:
        return round(milliseconds, 1)
    if milliseconds < 1000:
        return round(milliseconds)
    return round(milliseconds, -1) if milliseconds < 10_000 else round(milliseconds, -2)


def difference(later: Histogram, earlier: Histogram) -> dict[float, int]:
    """What came between two snapshots of one growing histogram."""
    counts = {key: count - earlier.get(key, 0) for key, count in later.items()}
    return {key: count for key, count in counts.items() if count > 0}


def merged(histograms: list[Histogram]) -> dict[float, int]:
    total: dict[float, int] = {}
    for histogram in histograms:
        for key, count in histogram.items():
            total[key] = total.get(key, 0) + count
    return total


def percentile(histogram: Histogram, fraction: float) -> float | None:
    """The response time that this fraction of requests did not exceed (nearest rank); None without any."""
    from math import ceil

    total = sum(histogram.values())
    if not total:
        return None
    rank = max(1, ceil(fraction * total))
    for key in sorted(histogram):
        rank -= histogram[key]
        if rank <= 0:
            return key
    raise AssertionError("unreachable: ranks end within the histogram")


def mean(histogram: Histogram) -> float | None:
    total = sum(histogram.values())
    return sum(key * count for key, count in histogram.items()) / total if total else None


def add_statistics(
    stats: Any, protocol: str, model: str, times: Mapping[str, Histogram], errors: Mapping[str, int]
) -> None:
    """Adds many requests to Locust's RequestStats: histograms by outcome, how often each error came."""
    import time

    from locust.stats import StatsEntry, StatsError

    count = sum(sum(histogram.values()) for histogram in times.values())
    if not count:
        return
    successes = times.get("success", {})
    failures = count - sum(successes.values())
    now = time.time()
    added = StatsEntry(stats, model, protocol)
    added.num_requests, added.num_failures = count, failures
    added.num_none_requests = failures  # a failure has no latency
    added.total_response_time = sum(value * number for value, number in successes.items())
    added.min_response_time, added.max_response_time = min(successes, default=None), max(successes, default=0)
    added.last_request_timestamp = now
    added.num_reqs_per_sec, added.num_fail_per_sec = {int(now): count}, {int(now): failures}
    added.response_times = successes
    stats.get(model, protocol).extend(added)
    stats.total.extend(added)
    for error, number in errors.items():
        known = stats.errors.setdefault(
            StatsError.create_key(protocol, model, error), StatsError(protocol, model, error, first_seen=now)
        )
        known.occurrences += number
        known.last_seen = now
