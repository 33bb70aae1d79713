"""An alarm for asyncio that rings on time.

asyncio waits with epoll in whole milliseconds, rounded up: each request would be sent up to a millisecond
late, and that counts as latency here. The kernel's timerfd rings within some 50 microseconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable


class _Time(ctypes.Structure):
    """struct itimerspec of <sys/timerfd.h>: seconds and nanoseconds of the interval and of the value."""

    _fields_ = (
        ("every_s", ctypes.c_long), ("every_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long),
    )  # fmt: skip


CLOCK_MONOTONIC = 1  # <time.h> of Linux
TFD_NONBLOCK, TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class Alarm:
    """Calls `ring` in the running loop at the time set last. Linux alone; elsewhere asyncio's own timer."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring, self._loop = ring, asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        self._libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(self._libc, "timerfd_create"):
            self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._rings)

    def set(self, seconds: float) -> None:
        """Rings in so many seconds from now, instead of at the time set before."""
        if self._fd < 0:
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_later(max(0.0, seconds), self._ring)
            return
        nanoseconds = max(1, int(seconds * 1e9))  # 0 would turn it off
        time = _Time(0, 0, nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000)
        self._libc.timerfd_settime(self._fd, 0, ctypes.byref(time), None)

    def _rings(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # set anew since it rang
        self._ring()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
