"""An engine is built once and never served broken, whatever happens to the cache or to its builders."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_tools.console import CheckFailed
from model_tools.engine.cache import Result, entries, obtain
from model_tools.engine.key import Key

CONTENT = b"compiled " * 1000


class Client:
    """Obtains the engine of one key again and again, and counts what it built."""

    def __init__(self, folder: Path, key: Key) -> None:
        self.cache, self.output, self.key = folder / "cache", folder / "own" / "model.plan", key
        self.entry = self.cache / key.name
        self.builds = 0
        self.said: list[str] = []

    def obtain(self, **options: Any) -> Result:
        self.said = []
        self.output.unlink(missing_ok=True)
        result = obtain(self.cache, self.key, self.build, self.output, say=self.said.append, **options)
        assert self.output.read_bytes() == CONTENT
        return result

    def build(self, file: Path) -> None:
        self.builds += 1
        file.write_bytes(CONTENT)


@pytest.fixture
def client(tmp_path: Path, key: Key) -> Client:
    return Client(tmp_path, key)


def test_the_second_time_it_is_found(client: Client) -> None:
    first, second = client.obtain(), client.obtain()
    assert (first.found, first.stored) == (False, True)
    assert (second.found, second.seconds) == (True, 0.0)
    assert client.builds == 1
    assert client.said == []


def test_without_a_cache_every_time_builds(client: Client) -> None:
    for _ in range(2):
        result = obtain(None, client.key, client.build, client.output)
        assert (result.found, result.stored) == (False, False)
    assert client.builds == 2


def truncate(entry: Path) -> None:
    with (entry / "engine").open("r+b") as file:
        file.truncate(len(CONTENT) // 2)


def alter(entry: Path) -> None:
    with (entry / "engine").open("r+b") as file:
        file.seek(100)
        file.write(b"X")


def swap(entry: Path) -> None:
    """The whole entry of another GPU, in good order, under this key's name."""
    record = json.loads((entry / "engine.json").read_text())
    record["key"]["device"] = {"gpu": "NVIDIA L4", "compute_capability": "8.9"}
    (entry / "engine.json").write_text(json.dumps(record))


def drop_a_part(entry: Path) -> None:
    record = json.loads((entry / "engine.json").read_text())
    del record["sha256"]
    (entry / "engine.json").write_text(json.dumps(record))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, "is truncated (4500 of 9000 bytes)"),
    "empty": (lambda entry: (entry / "engine").write_bytes(b""), "is truncated (0 of 9000 bytes)"),
    "longer": (lambda entry: (entry / "engine").write_bytes(CONTENT + b"x"), "is truncated (9001 of 9000"),
    "altered": (alter, "is altered"),
    "foreign": (swap, "is of another key (device differs)"),
    "no engine": (lambda entry: (entry / "engine").unlink(), "has no engine"),
    "no record": (lambda entry: (entry / "engine.json").unlink(), "has no engine.json"),
    "cut record": (lambda entry: (entry / "engine.json").write_text('{"key": '), "engine.json that is none"),
    "binary record": (lambda entry: (entry / "engine.json").write_bytes(b"\xff"), "engine.json that is none"),
    "record without a sum": (drop_a_part, "engine.json that is none"),
    "record of a list": (lambda entry: (entry / "engine.json").write_text("[]"), "engine.json that is none"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_entry_is_named_once_discarded_and_rebuilt(client: Client, damage: str) -> None:
    client.obtain()
    break_it, named = DAMAGES[damage]
    break_it(client.entry)
    listed = [entry.problem for entry in entries(client.cache)]
    assert named in listed[0] or damage == "foreign", "a list doesn't know whose key an entry should have"
    result = client.obtain()
    (line,) = client.said
    assert named in line
    assert line.endswith("; it is discarded")
    assert (result.found, result.stored, client.builds) == (False, True, 2)
    assert client.obtain().found
    assert [entry.problem for entry in entries(client.cache)] == [""]
    assert not list(client.cache.glob(".*")), "nothing of the damaged one is left"


def test_a_build_that_fails_leaves_nothing(client: Client) -> None:
    def fail(file: Path) -> None:
        file.write_bytes(b"half")
        raise CheckFailed("out of memory")

    with pytest.raises(CheckFailed):
        obtain(client.cache, client.key, fail, client.output)
    assert list(client.output.parent.iterdir()) == []
    assert list(entries(client.cache)) == []
    assert not client.obtain().found


def test_a_build_that_writes_nothing_is_a_failure(client: Client) -> None:
    with pytest.raises(CheckFailed, match="wrote no engine"):
        obtain(client.cache, client.key, lambda file: file.touch(), client.output)


def test_a_cache_that_can_not_be_locked_is_used_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a bucket that is mounted as a folder. No file system without locks is at hand here."""

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert client.obtain().stored
    (line,) = client.said
    assert "can't be locked (No locks available)" in line
    assert client.obtain().found


def test_a_cache_that_is_a_file_costs_a_build_and_a_line(client: Client) -> None:
    client.cache.write_text("")
    result = client.obtain()
    (line,) = client.said
    assert line.startswith(f"warning: {client.cache}: can't be written")
    assert (result.found, result.stored) == (False, False)


class TestPods:
    """Each pod is a process of its own."""

    def test_two_that_start_together_build_once(self, pod: Any, key: Key) -> None:
        first = pod()
        first.until_it_builds()
        second = pod()
        second.until_it_says("builds this engine; waiting for it")
        assert first.finish()[:2] == (False, True)
        assert second.finish()[:2] == (True, True)
        assert first.builds.read_text() == "x"

    def test_eight_that_start_together_build_once(self, pod: Any) -> None:
        pods = [pod() for _ in range(8)]
        for each in pods:
            each.process.stdin.close()
            each.process.stdin = None
        results = [each.finish()[0] for each in pods]
        assert sorted(results) == [False] + 7 * [True]
        assert pods[0].builds.read_text() == "x"

    def test_a_builder_that_is_killed_leaves_the_lock_to_the_next(self, pod: Any) -> None:
        first = pod()
        first.until_it_builds()
        second = pod()
        second.until_it_says("waiting")
        first.process.kill()
        second.until_it_builds()
        assert second.finish()[:2] == (False, True)
        assert not first.output.exists(), "half of an engine"
        assert pod().finish()[0]

    def test_what_a_killed_builder_left_in_the_cache_is_removed(
        self, pod: Any, key: Key, tmp_path: Path
    ) -> None:
        stale, other = (tmp_path / "cache" / f".{name}-abc" for name in (key.name, "0" * 64))
        for folder in (stale, other):
            folder.mkdir(parents=True)
            (folder / "engine").write_bytes(b"half")
        assert pod().finish()[1]
        assert not stale.exists()
        assert other.exists(), "another key's builder may be at work"

    def test_waiting_has_an_end(self, pod: Any) -> None:
        first = pod()
        first.until_it_builds()
        found, stored, said = pod(wait=0.5).finish()
        assert (found, stored) == (False, False)
        assert "no engine after 0.5 s of waiting" in said
        assert first.finish()[:2] == (False, True)

    def test_a_read_only_cache_costs_a_build_and_a_line(
        self, pod: Any, mounted: Callable[[str], list[str]]
    ) -> None:
        found, stored, said = pod(before=mounted("ro")).finish()
        assert (found, stored) == (False, False)
        assert said.count("warning: ") == 1
        assert "can't be written (Read-only file system), so each pod builds" in said

    def test_an_engine_in_a_read_only_cache_is_found(
        self, pod: Any, key: Key, tmp_path: Path, mounted: Callable[[str], list[str]]
    ) -> None:
        mounted("ro")  # skips where nothing can be mounted
        pod().finish()
        cache = tmp_path / "cache"
        shutil.copytree(cache, tmp_path / "filled")
        # Bound over itself and made read-only, it keeps its files; root could write to an ordinary folder.
        bind = f'mount --bind {tmp_path}/filled {cache} && mount -o remount,bind,ro {cache} && exec "$@"'
        before = mounted("ro")[:-4]
        found, _, said = pod(before=[*before, "sh", "-c", bind, "sh"]).finish()
        assert found
        assert said == ""

    @pytest.mark.parametrize("size", ["4k", "64k"])
    def test_a_full_cache_costs_a_build_and_a_line(
        self, pod: Any, tmp_path: Path, mounted: Callable[[str], list[str]], size: str
    ) -> None:
        cache = tmp_path / "cache"
        fill = f'dd if=/dev/zero of={cache}/full bs=1k count=60 2>/dev/null; "$@" && ls -A {cache} >&2'
        found, stored, said = pod(before=[*mounted(f"size={size}"), "sh", "-c", fill, "sh"]).finish()
        assert (found, stored) == (False, False)
        assert said.count("warning: ") == 1
        assert "can't keep the engine (No space left on device), so each pod builds" in said
        assert "\n." not in said, "what it could not write to the end is removed"
