"""Real servers as processes of a test: started, waited for, and ended whatever happens."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

START = 30.0  # seconds for a process to be ready


_kept: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Ports that no other process gets as free ones, or connects from, for as long as this one lives.

    They stay bound, which with SO_REUSEADDR keeps no server from binding and listening there.
    """
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
    _kept.extend(sockets)
    return [one.getsockname()[1] for one in sockets]


@contextmanager
def running(command: list[str], ready: Callable[[], bool], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once ready() is true; ended after the block. A failure to start shows its log."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START
        while not ready():
            assert process.poll() is None, f"{command[0]} ended:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"{command[0]} is not ready:\n{log.read_text()}"
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> Callable[[], bool]:
    """Whether a GET of that URL succeeds, asked at each call."""

    def ask() -> bool:
        try:
            return requests.get(url, timeout=1).ok
        except requests.RequestException:
            return False

    return ask


@contextmanager
def prometheus(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """The URL of a Prometheus that scrapes, and evaluates rules, every second; its data is in the folder.

    The test is skipped where it is not installed.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (Debian: apt install prometheus)")
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = config | {"global": every | config.get("global", {})}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [
        binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(command, answers(f"{url}/-/ready"), folder / "log"):
        yield url


def loadtest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadtest.cli", *arguments]
