"""`cluster` and `make demo` come through whatever happens to them: they work, or say what to do, and leave
nothing that the next run trips over.

What happens is drawn at random from SEED; INTERRUPTIONS says how often.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import cgroups, lifecycle, paths

from .embedded import EMBEDDED
from .test_cluster import NOTHING, command, trace

pytestmark = [
    pytest.mark.nightly,
    *EMBEDDED,
    pytest.mark.timeout(3 * 3600),
]
SEED = int(os.environ.get("SEED", "20"))
INTERRUPTIONS = int(os.environ.get("INTERRUPTIONS", "20"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
UP = ("up", "--nodes", "1")


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster's name of its own; whatever it leaves goes in the end."""
    name = f"tools-{uuid.uuid4().hex[:6]}"
    monkeypatch.setenv("CLUSTER_NAME", name)
    yield name
    assert command("down").returncode == 0
    assert trace(name) == NOTHING


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with what the machine's has for a cluster, whose things may be removed. Go's caches stay."""
    source = paths.cache()
    for variable in ("GOCACHE", "GOMODCACHE"):
        said = subprocess.run(["go", "env", variable], capture_output=True, text=True, check=True)
        monkeypatch.setenv(variable, said.stdout.strip())
    home = source.parent / f"{source.name}-{uuid.uuid4().hex[:6]}"  # beside it: links need one disk
    try:
        cache = home / source.name
        (cache / "images").mkdir(parents=True)
        kept = [source / "bin", *source.glob("images/seed-*[0-9a-f]"), *source.glob("images/base-*")]
        for each in kept:
            subprocess.run(["cp", "-al", each, cache / each.relative_to(source)], check=True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        yield cache
    finally:
        shutil.rmtree(home)


def interrupt(argv: list[str], after: float, by: signal.Signals, folder: Path | None = None) -> str:
    """Starts a program, sends it a signal after so many seconds, waits until it has ended: what it said."""
    with subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as running:
        try:
            said, _ = running.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            if by == signal.SIGINT:  # as a terminal does
                os.killpg(running.pid, by)
            else:
                running.send_signal(by)
            began = time.monotonic()
            said, _ = running.communicate(timeout=180)
            print(f"  it took {time.monotonic() - began:.1f} s to end")
        return said


def test_up_and_down_interrupted_at_random_points_are_made_good_by_the_next_up(
    name: str, own_cache: Path
) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    ended = command(*UP)
    assert ended.returncode == 0, ended.stderr
    whole = time.monotonic() - began
    print(f"undisturbed: {whole:.0f} s")
    for number in range(1, INTERRUPTIONS + 1):
        verb = chance.choice([UP, UP, UP, ("up", "--nodes", "2"), ("down",)])
        if verb != ("down",) and chance.random() < 0.7:
            assert command("down").returncode == 0
        gone = chance.choice(["nothing", "pause", "etcd", "kube-network-policies", "kube-tools"])
        for folder in own_cache.glob(f"bin/{gone}-{'[0-9a-f]' * 12}"):
            shutil.rmtree(folder)
        after, by = chance.uniform(0, whole if verb != ("down",) else 2), chance.choice(SIGNALS)
        print(f"{number}: {' '.join(verb)} without {gone} in the cache, {by.name} after {after:.1f} s")
        said = interrupt([sys.executable, "-m", "cluster", *verb], after, by)
        assert "Traceback" not in said, said
        if number % 4 == 0 or number == INTERRUPTIONS:
            again = command(*UP)
            assert again.returncode == 0, again.stderr
            status = json.loads(command("status", "--json").stdout)
            assert (status["state"], len(status["nodes"])) == ("up", 2)
            assert not list(own_cache.glob("**/*making*"))


def test_two_builds_at_once_share_the_work(own_cache: Path) -> None:
    for component in ("pause", "etcd"):
        for folder in own_cache.glob(f"bin/{component}-*"):
            shutil.rmtree(folder)
    argv = [sys.executable, "-m", "cluster", "build"]
    both = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        _, said = each.communicate(timeout=900)
        assert each.returncode == 0, said
    assert not list(own_cache.glob("bin/*making*"))


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("variable", ["XDG_STATE_HOME", "XDG_CACHE_HOME"])
def test_a_disk_that_is_too_small_is_said_before_anything_is_begun(
    variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "32m"), monkeypatch.context() as here:
        here.setenv(variable, str(tmp_path / "disk"))
        ended = command(*UP)
        assert ended.returncode == 2, ended.stderr
        assert f"name a folder with more in {variable}" in ended.stderr.splitlines()[-1]
        assert command("down").returncode == 0
        assert trace(name) == NOTHING


def test_a_disk_that_fills_up_meanwhile_is_said_and_room_is_all_it_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    # Enough to begin with, too little for the images, which another disk has to hold anew.
    with small_disk(disk, f"{2 * lifecycle.NODE_DISK + 2**26}"), monkeypatch.context() as here:
        here.setenv("XDG_STATE_HOME", str(disk))
        try:
            ended = command(*UP)
            assert ended.returncode == 1, ended.stderr
            assert "is full: make room" in ended.stderr.splitlines()[-1], ended.stderr
            assert "Traceback" not in ended.stderr
            subprocess.run(["mount", "-o", "remount,size=4g", disk], check=True)
            ended = command(*UP)
            assert ended.returncode == 0, ended.stderr
        finally:
            assert command("down").returncode == 0


@contextmanager
def memory_of_the_cluster(name: str) -> Iterator[Path]:
    """The file that limits the memory of all that a cluster of that name runs."""
    group = (cgroups.FILESYSTEM if cgroups.unified() else cgroups.FILESYSTEM / "memory") / name
    group.mkdir(exist_ok=True)
    yield group / ("memory.max" if cgroups.unified() else "memory.limit_in_bytes")


def test_memory_that_is_not_there_is_said_before_anything_is_begun(name: str) -> None:
    with memory_of_the_cluster(name) as limit:
        limit.write_text(str(2**28))
        ended = command(*UP)
        assert ended.returncode == 2, ended.stderr
        assert "0.2 GiB of memory are left and the cluster needs 0.8" in ended.stderr
        assert command("down").returncode == 0


def test_memory_that_goes_meanwhile_is_said_and_having_it_back_is_all_it_takes(name: str) -> None:
    argv = [sys.executable, "-m", "cluster", *UP]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if line.strip() == "… kubeadm init":
                with memory_of_the_cluster(name) as limit:
                    limit.write_text(str(2**28))
    assert running.returncode == 1, said
    # The kernel has killed something, or everything only waited for memory.
    assert "memory" in said[-1], said
    assert ": free some, or have fewer nodes" in said[-1], said
    assert command(*UP).returncode == 0


def started_here(name: str) -> list[str]:
    """Processes of a demo that runs on the cluster of that name: not the cluster's own."""
    own = cgroups.processes()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"CLUSTER_NAME={name}\0" in (process / "environ").read_text(errors="replace"):
                found.append((int(process.name), (process / "cmdline").read_text().replace("\0", " ")))
        except OSError:  # ended meanwhile
            continue
    return [line for pid, line in found if pid not in own | {os.getpid()}]


def test_demo_interrupted_at_random_points_is_made_good_by_the_next(name: str, tmp_path: Path) -> None:
    """In a copy of the checkout, whose own demo may be what runs this."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache")
    shutil.copytree(paths.REPOSITORY, copy, ignore=ignored, symlinks=True)
    chance = random.Random(SEED)
    argv = [sys.executable, "-m", "demo"]
    began = time.monotonic()
    ended = subprocess.run(argv, cwd=copy, capture_output=True, text=True, check=False)
    whole = time.monotonic() - began
    print(f"undisturbed: {whole:.0f} s, status {ended.returncode}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for number in range(1, INTERRUPTIONS + 1):
        if chance.random() < 0.3:
            assert command("down").returncode == 0
        after, by = chance.uniform(0, whole), chance.choice(SIGNALS)
        print(f"{number}: {by.name} after {after:.0f} s")
        said = interrupt(argv, after, by, copy)
        assert "Traceback" not in said, said
        deadline = time.monotonic() + 60
        while (left := started_here(name)) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert left == []
    ended = subprocess.run(argv, cwd=copy, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_second_demo_at_once_waits_for_the_first(name: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "demo"]
    copies = [tmp_path / "one", tmp_path / "two"]
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache")
    for copy in copies:
        shutil.copytree(paths.REPOSITORY, copy, ignore=ignored, symlinks=True)
    first = subprocess.Popen(argv, cwd=copies[0], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (copies[0] / "build" / "logs").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with subprocess.Popen(argv, cwd=copies[1], stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            line = second.stderr.readline()
            assert line == f"waiting for another `make demo` (process {first.pid})\n"
            second.terminate()
            assert second.wait(timeout=60) == 130
    finally:
        first.terminate()
        assert first.wait(timeout=180) == 130
