"""Arrivals come when their process says, at the profile's rate, however many workers share them."""

from __future__ import annotations

from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.arrivals import Profile, Stage, arrivals, read_trace
from model_tools.console import BadInput

RATES = st.floats(0.5, 5000)
SECONDS, TARGET = (st.one_of(st.just(0.0), st.floats(0.01, most)) for most in (20, 200))
STAGES = st.lists(st.builds(Stage, SECONDS, TARGET), max_size=5)


def until(times: object, seconds: float) -> list[float]:
    return list(takewhile(lambda time: time < seconds, times))  # type: ignore[call-overload]


@settings(deadline=None)  # a busy machine is no failure
@given(RATES)
def test_constant_arrivals_keep_equal_distances(rate: float) -> None:
    times = list(islice(arrivals("constant", Profile(rate)), 200))
    assert np.diff(times) == pytest.approx(np.full(199, 1 / rate), rel=1e-6)


@given(RATES, st.integers(1, 7))
@settings(deadline=None)
def test_workers_share_constant_arrivals_without_a_gap(rate: float, workers: int) -> None:
    alone = list(islice(arrivals("constant", Profile(rate)), 20 * workers))
    shared = [
        time
        for index in range(workers)
        for time in islice(arrivals("constant", Profile(rate), index, workers), 20)
    ]
    assert sorted(shared) == pytest.approx(alone)


def likely_exponential(gaps: Any) -> bool:
    """Whether they may well be of the exponential distribution of mean 1: Kolmogorov-Smirnov at 0.1 %.

    Without SciPy, whose statistics take longer to import than all tests here take.
    """
    count = len(gaps)
    expected = 1 - np.exp(-np.sort(gaps))
    steps = np.arange(count + 1) / count
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    return bool(distance < 1.949 / count**0.5)


@pytest.mark.parametrize("workers", [1, 4])
def test_poisson_arrivals_have_exponential_distances(workers: int) -> None:
    """Of all workers together: against the exponential distribution of the whole rate."""
    rate, count = 800.0, 20_000
    times = sorted(
        time
        for index in range(workers)
        for time in islice(arrivals("poisson", Profile(rate), index, workers, seed=index), count)
    )[:count]
    gaps = np.diff(times)
    assert likely_exponential(gaps * rate)
    assert times[-1] == pytest.approx(count / rate, rel=5 / count**0.5)
    # Independent of each other: constant arrivals with a random phase would pass neither test.
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 5 / count**0.5


def test_poisson_arrivals_follow_a_ramp() -> None:
    """Scaled back by the integral of the rate, an inhomogeneous Poisson process is one of rate 1."""
    profile = Profile(100, (Stage(20, 900), Stage(0, 50), Stage(10, 50)))
    times = until(arrivals("poisson", profile, seed=3), profile.seconds)
    scaled = [profile.total(time) for time in times]
    assert likely_exponential(np.diff(scaled))
    assert len(times) == pytest.approx(profile.total(profile.seconds), rel=0.05)
    spike_over = [time for time in times if 20 <= time < 30]
    assert len(spike_over) == pytest.approx(500, rel=0.2)


@given(st.floats(0.5, 200), STAGES)
@settings(deadline=None)
def test_each_arrival_is_due_when_the_integral_of_the_rate_reaches_it(
    start: float, stages: list[Stage]
) -> None:
    profile = Profile(start, tuple(stages))
    asked = list(np.linspace(0, profile.total(profile.seconds) + 10, 30))
    times = list(profile.inverted(iter(asked)))
    assert all(earlier <= later for earlier, later in pairwise(times))
    for total, time in zip(asked, times, strict=False):
        assert profile.total(time) == pytest.approx(total, rel=1e-6, abs=1e-6)
    if len(times) < len(asked):
        assert stages[-1].target == 0, "only a load that ends at 0 has no more arrivals"


def test_a_profile_jumps_and_ramps_as_its_stages_say() -> None:
    profile = Profile(10, (Stage(4, 30), Stage(0, 100), Stage(2, 100), Stage(0, 10)))
    assert [profile.at(time) for time in (0, 2, 4, 5, 6, 60)] == [10, 20, 100, 100, 10, 10]
    assert profile.seconds == 6
    assert profile.total(6) == 80 + 200


def test_stages_that_end_at_nothing_have_an_end() -> None:
    times = list(arrivals("constant", Profile(10, (Stage(2, 0),))))
    assert len(times) == 10
    assert times[-1] < 2


@pytest.mark.parametrize("text", ["30", "30:x", "-1:5", "1:-5", "1:2:3", "inf:1", "nan:1"])
def test_a_stage_that_is_none_is_named(text: str) -> None:
    with pytest.raises(BadInput, match="stage"):
        Stage.read(text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("time,user\n5.5,a\n5,b\n7,c\n", [0, 0.5, 2]),
        ("10\n11\n\n14\n", [0, 1, 4]),
        ('{"time": 1700000000.25, "path": "/"}\n{"time": 1700000001}\n', [0, 0.75]),
        ('"2026-01-02T03:04:05Z"\n"2026-01-02T03:04:06.500+00:00"\n', [0, 1.5]),
        ("Time\n2026-01-02T03:04:05\n2026-01-02 03:05:05\n", [0, 60]),
    ],
    ids=["CSV with columns", "CSV of numbers", "JSON lines", "JSON strings", "ISO 8601"],
)
def test_a_trace_is_read_from_csv_and_json_lines(tmp_path: Path, content: str, expected: list[float]) -> None:
    file = tmp_path / "trace"
    file.write_text(content)
    assert read_trace(file) == pytest.approx(expected)
    assert read_trace(file, speed=2) == pytest.approx([time / 2 for time in expected])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("when,user\n1,a\n", "no column is named time"),
        ("time\n1\nsoon\n", r"trace:3: 'soon'"),
        ('{"time": 1}\n{"moment": 2}\n', r"trace:2: None"),
        ('{"time": 1}\nx\n', r"trace:2: not JSON"),
        ("time\n1\nnan\n", r"trace:3: 'nan'"),
        ("1\n", "two arrivals"),
        ("1\n1\n", "two arrivals"),
        ("", "two arrivals"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "trace"
    file.write_text(content)
    with pytest.raises(BadInput, match=named):
        read_trace(file)


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.csv: No such file"):
        read_trace(tmp_path / "gone.csv")
