"""Histograms keep three digits, and percentiles are those of the requests in the window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.api import Snapshot
from loadtest.arrivals import Stage
from loadtest.run import Settings, _is_steady, statistics_of
from loadtest.statistics import bucket, difference, percentile
from model_tools.console import BadInput

SETTINGS = Settings(
    users=4, spawn_rate=4, duration=6, protocol="both", arrival="closed", requests_per_second=0, workers=1
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0.05, 60_000))
def test_a_bucket_is_within_half_a_per_cent_or_ten_microseconds(milliseconds: float) -> None:
    assert abs(bucket(milliseconds) - milliseconds) <= max(0.005 * milliseconds, 0.01)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_numpys_nearest_rank(values: list[int], fraction: float) -> None:
    histogram = {float(value): values.count(value) for value in values}
    assert percentile(histogram, fraction) == np.percentile(values, fraction * 100, method="inverted_cdf")


def test_no_requests_have_no_percentile() -> None:
    assert percentile({}, 0.99) is None


def test_a_difference_holds_only_what_came_later() -> None:
    assert difference({1.0: 5, 2.0: 3, 9.0: 1}, {1.0: 2, 2.0: 3}) == {1.0: 3, 9.0: 1}


def snapshot(
    second: float,
    grpc: dict[float, int],
    http: dict[float, int],
    failed: int = 0,
    cpu: float = 5,
    wanted: float = 5,
) -> Any:
    return Snapshot(
        time=1000 + second,
        state="running",
        users=4,
        problems=[],
        workers=[{"id": "w", "state": "running", "users": 4, "cpu": cpu}],
        requests={"grpc": sum(grpc.values()) + failed, "http": sum(http.values())},
        failures={"grpc": failed, "http": 0},
        response_times={"grpc": grpc, "http": http},
        errors=[{"protocol": "grpc", "error": "UNAVAILABLE: full", "count": failed}] if failed else [],
        generators=[
            {
                "id": "w",
                "seconds": 100 + second,
                "cpu_seconds": 20 + cpu / 100 * second,
                "wanted_seconds": 30 + wanted / 100 * second,
            }
        ],
    )


def test_statistics_are_of_the_window_alone() -> None:
    first = snapshot(
        0, {10.0: 100, 900.0: 50}, {20.0: 7}, failed=3
    )  # the warm-up's slow answers and failures
    last = snapshot(4, {10.0: 300, 900.0: 50, 30.0: 2}, {20.0: 47}, failed=5, cpu=95)
    result = statistics_of([first, snapshot(2, {10.0: 200, 900.0: 50}, {20.0: 27}, failed=4), last], SETTINGS)
    assert (result["start"], result["end"]) == (1000, 1004)
    grpc, total = result["protocols"]["grpc"], result["total"]
    assert (grpc["requests"], grpc["successes"], grpc["failures"]) == (204, 202, 2)
    assert grpc["requests_per_second"] == pytest.approx(202 / 4)
    assert total["requests"] == 244
    assert grpc["latency"]["max"] == pytest.approx(0.03)
    assert grpc["latency"]["p50"] == pytest.approx(0.01)
    assert total["latency"]["p99"] == pytest.approx(0.02)
    assert result["failures"] == [{"protocol": "grpc", "error": "UNAVAILABLE: full", "count": 2}]
    assert [point["time"] for point in result["history"]] == [1001, 1003]
    assert sum(point["requests"] for point in result["history"]) == total["requests"]
    assert result["generator"]["cpu_percent"] == pytest.approx(95)
    assert "a worker used 95 % of a core" in result["generator"]["limit"]


def test_a_worker_that_waits_for_a_processor_is_a_limit_however_little_it_gets() -> None:
    first, last = (snapshot(second, {10.0: 100 + second}, {}, cpu=30, wanted=97) for second in (0, 4))
    limit = statistics_of([first, last], SETTINGS)["generator"]["limit"]
    assert "waiting for a processor 97 % of the time and got 30 % of one" in limit


def test_a_worker_with_processor_to_spare_is_no_limit() -> None:
    first, last = (snapshot(second, {10.0: 100 + second}, {}, cpu=50) for second in (0, 4))
    assert statistics_of([first, last], SETTINGS)["generator"]["limit"] is None


OPEN = Settings(
    users=4, spawn_rate=4, duration=4, protocol="grpc", arrival="poisson", requests_per_second=50, workers=1
)


def opened(second: float, lag: dict[str, int], times: dict[str, int], answers: int, held: int = 0) -> Any:
    """What a worker of an open loop reports of 50 requests a second."""
    generator = {
        "id": "w",
        "seconds": 100 + second,
        "cpu_seconds": 20 + second / 10,
        "wanted_seconds": 30 + second / 10,
        "part": 1,
        "offered": 50 * second,
        "sent": 50 * second,
        "held": held,
        "open": 0,
        "in_flight_most": 7,
        "lag": lag,
        "protocols": {"grpc": {"times": {"success": times}, "errors": {}, "answers": answers}},
    }
    return replace(snapshot(second, {1.0: 999}, {}), generators=[generator]).measured()


def test_an_open_loop_counts_what_was_due_and_rates_what_was_answered_in_time() -> None:
    first, middle = opened(0, {}, {}, 0), opened(4, {"0.1": 200}, {"20.0": 150}, 150)
    last = replace(opened(4, {"0.1": 200}, {"20.0": 150, "900.0": 50}, 150), time=1004)
    result = statistics_of([first, middle, last], OPEN)
    assert result["total"]["requests"] == 200, "those answered later are counted too"
    assert result["total"]["requests_per_second"] == pytest.approx(150 / 4), "but not as its rate"
    assert result["total"]["latency"]["p99"] == pytest.approx(0.9)
    generator = result["generator"]
    assert generator["offered_per_second"] == pytest.approx(50)
    assert generator["lag"]["p99"] == pytest.approx(0.0001)
    assert generator["limit"] is None
    assert result["history"][0]["offered_per_second"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("lag", "latency", "limited"),
    [(4, 1, False), (6, 20, True), (6, 100, False), (40, 1000, False), (200, 1000, True)],
)
def test_requests_that_left_late_are_a_limit_beside_the_servers_latency(
    lag: int, latency: int, limited: bool
) -> None:
    first = opened(0, {}, {}, 0)
    last = opened(4, {str(lag): 200}, {str(latency): 200}, 200)
    limit = statistics_of([first, last, last], OPEN)["generator"]["limit"]
    assert (limit is not None) is limited
    if limit:
        assert f"left {lag} ms late" in limit


def test_a_rate_is_steady_when_two_spans_are_alike() -> None:
    assert _is_steady([(0, 0), (2, 200), (4, 405)])
    assert not _is_steady([(0, 0), (2, 200), (4, 700)])
    assert not _is_steady([(0, 0), (2, 200)])
    assert not _is_steady([(0, 0), (2, 0), (4, 0)])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"users": 0}, "one user"),
        ({"workers": 0}, "one worker"),
        ({"duration": 0}, "duration"),
        ({"spawn_rate": -1}, "spawn rate"),
        ({"protocol": "udp"}, "udp"),
        ({"arrival": "random"}, "random"),
        ({"arrival": "constant"}, "requests per second"),
        ({"arrival": "poisson"}, "requests per second"),
        ({"arrival": "replay"}, "--trace"),
        ({"trace": (0.0, 1.0)}, "--trace"),
        ({"arrival": "replay", "trace": (0.0, 1.0), "stages": (Stage(1, 1),)}, "its own shape"),
        ({"stages": (Stage(0, 5),)}, "some time"),
        ({"max_in_flight": 0}, "in flight"),
        ({"users": 1}, "two users"),
    ],
)
def test_settings_that_make_no_load_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        SETTINGS.with_overrides(**change)


def test_a_release_without_a_load_test_says_how_to_get_one() -> None:
    with pytest.raises(BadInput, match=r"loadtest\.enabled"):
        Settings.from_values({"loadtest": {"enabled": False}})
