"""What runs programs and waits for conditions ends when it is told to."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from cluster import shell


def never() -> bool:
    return False


def test_what_is_waited_for_in_vain_is_named() -> None:
    with pytest.raises(shell.StepFailed, match=r"^the sun: not within 0 s$"):
        shell.wait_for(never, "the sun", timeout=0)


def test_an_interruption_ends_what_other_threads_wait_for() -> None:
    waiting: list[Future[None]] = []
    began = threading.Event()

    def condition() -> bool:
        began.set()
        return False

    def interrupted() -> None:
        with shell.side_by_side(1) as pool:
            waiting.append(pool.submit(shell.wait_for, condition, "the moon", timeout=600))
            assert began.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert str(waiting[0].exception()) == "the moon: interrupted"
    with pytest.raises(shell.StepFailed, match="not within"):  # what comes after is none of its business
        shell.wait_for(never, "the next", timeout=0)
