"""Signals become what Ctrl-C is."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal
from model_tools.console import interrupted_by

try:
    with interrupted_by(signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), signal.{name})
    print("went on")
except KeyboardInterrupt:
    print("interrupted")
"""

# These tests may run under nohup themselves.
TERMINAL = ("env", "--default-signal=HUP")


@pytest.mark.parametrize(
    ("through", "name", "told"),
    [
        (TERMINAL, "SIGHUP", "interrupted"),
        (TERMINAL, "SIGTERM", "interrupted"),
        (("nohup",), "SIGHUP", "went on"),
        (("nohup",), "SIGTERM", "interrupted"),
    ],
    ids=["SIGHUP", "SIGTERM", "SIGHUP under nohup", "SIGTERM under nohup"],
)
def test_signals_interrupt_but_for_those_that_nohup_ignores(
    through: tuple[str, ...], name: str, told: str
) -> None:
    done = subprocess.run(
        [*through, sys.executable, "-c", SCRIPT.format(name=name)],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.strip() == told, done.stderr
