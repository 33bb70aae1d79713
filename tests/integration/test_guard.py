"""The openvino backend's guard ends Triton with an instance that is lost, and not for what the clock does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import model_tools

LIMIT = 1.0  # seconds that an instance may be silent
BACKEND = Path(model_tools.__file__).parent / "backends/openvino/model.py"
# An instance, which is all of the backend but its model; its parent is Triton to it.
INSTANCE = """
import os, sys, types, importlib.util
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
spec = importlib.util.spec_from_file_location("model", sys.argv[1])
model = sys.modules["model"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
guard = model._Guard(float(sys.argv[2]))
print(os.getpid(), flush=True)
sys.stdin.readline()
guard.leave()
print("left", flush=True)
"""
# A clock that is two hours ahead once a file is there, as a process sees it when somebody sets the clock.
CLOCK = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int status = syscall(SYS_gettimeofday, now, zone);
    if (access(getenv("AHEAD"), F_OK) == 0)
        now->tv_sec += 7200;
    return status;
}
"""


class Instance:
    def __init__(self, environment: dict[str, str] | None = None) -> None:
        instance = [sys.executable, "-c", INSTANCE, str(BACKEND), str(LIMIT)]
        self.triton = subprocess.Popen(
            ["sh", "-c", '"$@"; sleep 60', "triton", *instance], env=os.environ | (environment or {}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.pid = int(self.line())

    def line(self) -> str:
        assert self.triton.stdout is not None
        return self.triton.stdout.readline().strip()

    def leave(self) -> None:
        assert self.triton.stdin is not None
        self.triton.stdin.write("\n")
        self.triton.stdin.flush()

    def end_of_triton(self) -> str:
        """What is said at it."""
        assert self.triton.wait(30) == -signal.SIGKILL
        self.close()
        assert self.triton.stderr is not None
        return self.triton.stderr.read()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.triton.pid, signal.SIGKILL)
        self.triton.wait()


@pytest.fixture
def instance() -> Iterator[Instance]:
    made = Instance()
    yield made
    made.close()


def test_an_instance_that_is_killed_takes_triton_along(instance: Instance) -> None:
    os.kill(instance.pid, signal.SIGKILL)
    assert "an instance has died: Triton ends\n" in instance.end_of_triton()


def test_an_instance_that_stands_still_takes_triton_along(instance: Instance) -> None:
    os.kill(instance.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert "an instance stands still: Triton ends\n" in instance.end_of_triton()
    assert time.monotonic() - began > LIMIT / 2


def test_an_instance_that_is_told_to_end_leaves_triton_alone(instance: Instance) -> None:
    instance.leave()
    assert instance.line() == "left"
    time.sleep(2 * LIMIT)
    assert instance.triton.poll() is None


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed (Debian: apt install gcc)")
def test_a_clock_that_is_put_forward_ends_nothing(tmp_path: Path) -> None:
    source, library, ahead = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "ahead"
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    instance = Instance({"LD_PRELOAD": str(library), "AHEAD": str(ahead)})
    try:
        time.sleep(LIMIT)
        ahead.touch()
        time.sleep(3 * LIMIT)
        assert instance.triton.poll() is None
        instance.leave()
        assert instance.line() == "left"
    finally:
        instance.close()
