"""Runs programs so that a failure names its log and shows its end, and so that none outlives us."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from model_tools.console import CheckFailed

LAST_LINES = 12
_interrupted = threading.Event()


class StepFailed(CheckFailed):
    """A step of the cluster's life went wrong; the message names the log and ends with its last lines."""


def run(
    argv: Sequence[str | Path],
    log: Path,
    what: str,
    *,
    stdin: IO[bytes] | None = None,
    text: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Runs argv with its output added to log. Raises StepFailed, worded with what, unless it exits 0."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {' '.join(map(str, argv))}\n".encode())
        output.flush()
        try:
            ended = subprocess.run(
                tied(argv),
                stdin=None if text is not None else stdin or subprocess.DEVNULL,
                input=None if text is None else text.encode(),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                check=False,
            )
        except FileNotFoundError as missing:
            raise StepFailed(f"{what} failed: {missing.filename} is not installed") from missing
    if ended.returncode:
        raise StepFailed(f"{what} failed with status {ended.returncode}, {tail(log)}")


def output(argv: Sequence[str | Path], *, timeout: float = 60) -> str:
    """Standard output of argv. Raises StepFailed with what it wrote to standard error."""
    try:
        ended = subprocess.run(tied(argv), capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        raise StepFailed(f"{Path(argv[0]).name} did not end within {timeout:g} s") from late
    if ended.returncode:
        raise StepFailed(f"{' '.join(map(str, argv[-4:]))}: {ended.stderr.strip() or ended.returncode}")
    return ended.stdout


def tied(argv: Sequence[str | Path]) -> list[str]:
    """argv as a child that the kernel ends with us, even when we are killed."""
    return ["setpriv", "--pdeathsig", "KILL", *map(str, argv)]


def tail(log: Path) -> str:
    """`log PATH ends:` and the last lines of the log, indented."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except FileNotFoundError:
        return f"no log at {log}"
    return "\n    ".join([f"log {log} ends:", *lines])


@contextmanager
def side_by_side(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose jobs stop waiting for conditions when this thread is interrupted."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            _interrupted.set()
            pool.shutdown(cancel_futures=True)
            _interrupted.clear()
            raise


def wait_for(condition: Callable[[], bool], what: str, *, timeout: float, log: Path | None = None) -> None:
    """Polls until condition holds. Raises StepFailed, worded with what, after timeout seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"{what}: not within {timeout:g} s{', ' + tail(log) if log else ''}")
        if _interrupted.wait(0.2):
            raise StepFailed(f"{what}: interrupted")
