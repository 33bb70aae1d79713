"""Constant arrivals keep their rate, whatever each answer takes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.arrivals import CATCH_UP, Schedule


def sent(schedule: Schedule, seconds: float, latency: float) -> list[float]:
    """When a user sends, whose answers all take that long."""
    now, times = 0.0, []
    while True:
        now += schedule.wait(now)
        if now > seconds:
            return times
        times.append(now)
        now += latency


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0.5, 50), st.floats(0, 0.9))
def test_a_server_fast_enough_gets_exactly_the_rate(rate: float, busy: float) -> None:
    times = sent(Schedule(rate, 0.0), 100, busy / rate)
    assert len(times) == pytest.approx(100 * rate, abs=1.01)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([1 / rate] * len(gaps))


def test_a_server_slower_than_the_rate_is_asked_again_at_once() -> None:
    times = sent(Schedule(10, 0.0), 20, latency=0.5)
    assert len(times) == pytest.approx(40, abs=1)


def test_a_stall_is_made_up_for_but_not_more_than_a_second_of_it() -> None:
    schedule = Schedule(10, 0.0)
    now = schedule.wait(0.0) + 30  # the first answer takes half a minute
    at_once = 0
    while schedule.wait(now) == 0:
        at_once += 1
    assert at_once == pytest.approx(10 * CATCH_UP, abs=1)


def test_users_that_start_together_do_not_send_together() -> None:
    phases = {round(Schedule(1, 0.0).wait(0.0), 3) for _ in range(50)}
    assert len(phases) > 25
