"""When a user sends its next request."""

from __future__ import annotations

import random

CATCH_UP = 1.0  # seconds of missed schedule that a user makes up for


class Schedule:
    """A user's share of a constant rate, kept against the clock so that it neither drifts nor bunches up.

    rate: this user's requests a second. A user waits for each answer, so an arrival that falls due meanwhile
    is sent as soon as the answer is there, and the schedule is not shifted: short stalls are made up for.
    Of a longer stall only the last CATCH_UP seconds are. A server slower than the rate is therefore loaded
    like a closed loop of all users, and the rate achieved stays below the one asked for.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._period = 1 / rate
        # A random phase: users that were spawned together must not send together.
        self._due = now + random.random() * self._period

    def wait(self, now: float) -> float:
        """Seconds until the next request is due; counts it as taken."""
        wait = max(0.0, self._due - now)
        self._due = max(self._due, now - CATCH_UP) + self._period
        return wait
