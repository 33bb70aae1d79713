"""`model-tools serve` as a user runs it: it ends cleanly, and says in one line why it can't start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from processes import free_ports

from model_tools.runtime import PYTHON
from model_tools.serve import LocalTriton

BOUND = 30  # seconds in which a server that can't start has to say so


@contextlib.contextmanager
def serving(repository: Path, *options: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """`model-tools serve` as a process of its own, whatever happens ended after the block."""
    ports = [
        f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)
    ]
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "model_tools", "serve", str(repository), *ports, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=BOUND)


def refusal(repository: Path, *options: str) -> str:
    """The last line of a `serve` that has to fail with status 2."""
    with serving(repository, *options) as process:
        _, errors = process.communicate(timeout=BOUND)
    assert process.returncode == 2, errors
    return errors.splitlines()[-1]


def processes_of(pid: int) -> set[int]:
    """`pid`'s descendants that live."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that live and are not zombies which nobody collects."""
    living = set()
    for pid in pids:
        try:
            if (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                living.add(pid)
        except OSError:
            continue
    return living


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + BOUND
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pids)


# As a script's `COMMAND &` starts it: what shells do to SIGINT there is inherited.
IN_THE_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")


@pytest.mark.parametrize(
    ("number", "before"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGINT, ()),
        (signal.SIGINT, IN_THE_BACKGROUND),
        (signal.SIGKILL, ()),
    ],
    ids=["SIGTERM", "SIGINT", "SIGINT in the background", "SIGKILL"],
)
def test_serve_leaves_no_process_when_it_is_ended(
    small_repository: Path, number: signal.Signals, before: Sequence[str]
) -> None:
    with serving(small_repository, before=before) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: HTTP 127.0.0.1:")
        started = processes_of(process.pid)
        assert len(started) >= 2, "Triton and the backend's process"
        process.send_signal(number)
        assert process.wait(BOUND) == (-number if number == signal.SIGKILL else 0)
        wait_until_gone(started)


@pytest.mark.parametrize("content", [b"", b"not a model", "half"], ids=["empty", "text", "cut short"])
def test_a_model_file_that_is_broken_is_named(small_repository: Path, content: bytes | str) -> None:
    file = small_repository / "small" / "1" / "model.onnx"
    if content == "half":
        os.truncate(file, file.stat().st_size // 2)
    else:
        assert isinstance(content, bytes)
        file.write_bytes(content)
    line = refusal(small_repository)
    assert line.startswith("model-tools: model small version 1 does not load: ")
    assert "small/1/model.onnx" in line
    assert "empty" in line if content == b"" else "no ONNX model" in line


def test_a_model_that_differs_from_its_configuration_is_named(small_repository: Path) -> None:
    config = small_repository / "small" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 10\n", "dims: 11\n"))
    line = refusal(small_repository)
    assert "probabilities" in line
    assert "[10]" in line
    assert "[11]" in line


def test_a_port_in_use_is_named(small_repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert f"--grpc-port: 127.0.0.1:{port}" in refusal(small_repository, f"--grpc-port={port}")


def test_a_port_given_twice_is_named(small_repository: Path) -> None:
    (port,) = free_ports(1)
    line = refusal(small_repository, f"--http-port={port}", f"--metrics-port={port}")
    assert f"--metrics-port: 127.0.0.1:{port} can't be used" in line


def test_a_port_that_it_took_is_nobody_elses_before_it_listens(small_repository: Path) -> None:
    free: list[str] = []

    def look(line: str) -> None:
        """At each line of Triton's log, the first of which come before it opens any port."""
        for address in (triton.http, triton.grpc, triton.metrics):
            host, port = address.split(":")
            with socket.socket() as other, contextlib.suppress(OSError):
                other.bind((host, int(port)))
                free.append(address)

    triton = LocalTriton(small_repository, log=look, exit_seconds=0)
    with triton:
        assert free == []


def test_a_model_that_loads_for_too_long_ends_serve(make_repository: Callable[..., Path]) -> None:
    assert "not ready after 1 s" in refusal(make_repository(), "--timeout=1")


def test_backends_see_no_packages_of_an_activated_environment(
    small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With numpy 2, which most environments have by now, every output would arrive empty."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    numpy = environment / "lib" / f"python{PYTHON}" / "site-packages" / "numpy"
    numpy.mkdir()
    (numpy / "__init__.py").write_text("raise ImportError('numpy of another environment')\n")
    monkeypatch.setenv("PATH", f"{environment / 'bin'}:{os.environ['PATH']}")
    with LocalTriton(small_repository, exit_seconds=0):
        pass


def test_a_triton_that_is_ended_at_once_leaves_no_process_and_no_shared_memory(
    small_repository: Path,
) -> None:
    with LocalTriton(small_repository, exit_seconds=0) as triton:
        started = processes_of(triton.pid) | {triton.pid}
        shared = {
            Path(line.split()[-1])
            for line in (Path("/proc") / str(triton.pid) / "maps").read_text().splitlines()
            if "/dev/shm/" in line
        }
        assert len(started) >= 2
        assert len([file for file in shared if file.exists()]) >= 1
    wait_until_gone(started)
    assert not [file for file in shared if file.exists()]
