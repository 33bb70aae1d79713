"""A thread that wants to run all the time is told from one that sleeps, however much processor it gets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from loadtest.processor import Usage

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux counts it")


def share(usage: Usage) -> float:
    read = usage.read()
    return read["wanted_seconds"] / read["seconds"]


def test_a_busy_thread_wants_all_of_the_time_and_a_sleeping_one_none_of_it() -> None:
    usage = Usage()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    assert share(usage) > 0.9
    assert usage.read()["cpu_seconds"] > 0
    # What waits for a processor after each sleep is bounded by few sleeps.
    usage = Usage()
    time.sleep(1)
    assert share(usage) < 0.6
