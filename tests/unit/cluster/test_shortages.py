"""Want of disk or memory is said in a line that tells what to do, before the work where it can be known."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster import cgroups, lifecycle, paths, preflight
from cluster.shell import StepFailed
from model_tools.console import BadInput


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The state's disk has a megabyte left, the cache's has plenty; no process was killed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "state").mkdir()

    def usage(folder: Path) -> Usage:
        return Usage(2**40, 0, 2**20 if "state" in str(folder) else 2**40)

    monkeypatch.setattr("shutil.disk_usage", usage)
    monkeypatch.setattr(cgroups, "killed_for_memory", lambda: 0)
    monkeypatch.setattr(cgroups, "memory_left", lambda: 2**40)
    return tmp_path


def test_too_little_disk_is_bad_input_that_names_the_variable(full: Path) -> None:
    with pytest.raises(
        BadInput, match=r"state/.* has 0\.0 GiB of disk left .* needs 2\.0: .* XDG_STATE_HOME"
    ):
        preflight.room(paths.state(), 2 * 2**30, "XDG_STATE_HOME")
    preflight.room(paths.cache(), 2 * 2**30, "XDG_CACHE_HOME")


def test_too_little_memory_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "memory_left", lambda: 2**29)
    preflight.memory(2**29)
    with pytest.raises(BadInput, match=r"0\.5 GiB of memory are left and the cluster needs 1\.0"):
        preflight.memory(2**30)


def test_a_step_that_fails_on_a_full_disk_says_which(full: Path) -> None:
    with pytest.raises(StepFailed) as failure, lifecycle.explained():
        raise StepFailed("cp failed")
    first, reason = str(failure.value).splitlines()
    assert first == "cp failed"
    assert reason.startswith(f"the disk of {paths.state()} is full: ")
    assert reason.endswith("XDG_STATE_HOME")


def test_an_error_of_the_system_is_a_line_and_no_traceback(full: Path) -> None:
    with (
        pytest.raises(StepFailed, match=r"^/there: No space left on device\nthe disk of "),
        lifecycle.explained(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "/there")


def test_processes_that_the_kernel_killed_are_counted(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "killed_for_memory", lambda: 3)
    with pytest.raises(StepFailed, match="ended 3 processes of it for want of memory"), lifecycle.explained():
        raise StepFailed("kubeadm init failed")


def test_memory_that_is_nearly_gone_is_said_though_nothing_was_killed(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "memory_left", lambda: 2**28)
    with (
        pytest.raises(StepFailed, match=r"\n0\.2 GiB of memory are left: free some, or have fewer nodes$"),
        lifecycle.explained(),
    ):
        raise StepFailed("kubeadm init failed")


def test_bad_input_stays_what_it_is(full: Path) -> None:
    with pytest.raises(BadInput, match=r"^no such image$"), lifecycle.explained():
        raise BadInput("no such image")


@pytest.mark.parametrize("unified", [False, True])
def test_a_limit_of_the_clusters_cgroup_counts_and_the_cache_of_files_does_not(
    unified: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "FILESYSTEM", tmp_path)
    monkeypatch.setattr(cgroups, "unified", lambda: unified)
    plenty = cgroups.memory_left()
    group = (tmp_path if unified else tmp_path / "memory") / paths.name()
    group.mkdir(parents=True)
    limit, use, cache = (
        ("max", "current", "file") if unified else ("limit_in_bytes", "usage_in_bytes", "total_cache")
    )
    (group / f"memory.{limit}").write_text("5000\n")
    (group / f"memory.{use}").write_text("3000\n")
    (group / "memory.stat").write_text(f"x{cache} 7\n{cache} 1000\n")
    assert plenty > 2**20
    assert cgroups.memory_left() == 3000


def test_kills_of_all_nodes_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cgroups, "groups", lambda: iter([tmp_path / "one", tmp_path / "two", tmp_path / "gone"])
    )
    for name, kills in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.oom_control").write_text(
            f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
        )
    assert cgroups.killed_for_memory() == 3


def test_halves_of_others_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("etcd-0123456789ab.making-7", "etcd-0123456789ab", "etcd-more-0123456789ab.making"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    paths.remove_halves(tmp_path, f"etcd-{'[0-9a-f]' * 12}.making*")
    assert {left.name for left in tmp_path.iterdir()} == {
        "etcd-0123456789ab",
        "etcd-more-0123456789ab.making",
    }
