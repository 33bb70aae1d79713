"""The folder that pods share engines in: one folder an engine, named by its key.

    KEY/engine        the engine
    KEY/engine.json   its key's parts, SHA-256, size in bytes, the seconds that it took to build, and what the
                      builder says of it
    KEY/used      written by each pod that takes it, with that pod's name: its time is the last use
    KEY.lock          locked by the pod that builds it, whose name it holds
    .KEY-*            an entry that is being written; whoever has the lock removes those of builders that died

An entry is renamed into place whole, and checked whenever it is taken: its bytes are copied to the pod's own
folder, and the copy has to have the SHA-256. So a disk that cuts or changes files, or an entry that belongs
to another key, costs one build and never a broken engine. A cache that can't be used costs a build as well,
and a line that says why. What the cache does not do is keep somebody out who may write to it: an engine is
code, so only pods of the release should have the volume.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from model_tools.console import CheckFailed
from model_tools.engine.key import Key

if TYPE_CHECKING:
    from model_tools.engine.bucket import Bucket

ENGINE, RECORD, USED = "engine", "engine.json", "used"
_CHUNK = 1 << 20
_POLL = 0.2  # seconds between two looks at a lock


@dataclass(frozen=True)
class Result:
    """How an engine came: out of the cache, or built in `seconds`; `stored` says that others can have it.

    `record` is what engine.json says of it, in or out of a cache.
    """

    found: bool
    seconds: float
    stored: bool
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One folder of the cache; `problem` says why it can't be used, "" where it can.

    `size` is in bytes, `seconds` what its build took, `used` its last use in seconds since 1970.
    """

    name: str
    parts: dict[str, Any]
    size: int
    seconds: float
    used: float
    problem: str


class Damaged(Exception):
    """The entry can't be used; the message says why."""


def obtain(
    cache: Path | str | None,
    key: Key,
    build: Callable[[Path], Mapping[str, Any] | None],
    output: Path,
    wait: float = 1800.0,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Puts the engine of `key` at `output`: the cache's, or else what `build` writes to the file it is given.

    The cache is a folder, or the URL of one in an object store (`bucket`). What `build` returns is kept as
    the description of the engine. Where another pod builds it, waits for that, `wait` seconds at most. `say`
    gets one line for each thing that a person should know. A cache that can't be read, locked or written is
    no error.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if cache is None:
        record = _build(build, key, output)
        return Result(False, record["seconds"], False, record)
    store: Folder | Bucket
    if isinstance(cache, Path):
        store = Folder(cache, key, say)
    else:
        from model_tools.engine.bucket import Bucket

        store = Bucket(cache, key, say)
    if store.take(output) is None:
        return Result(True, 0.0, True, store.record)
    with store.locked(wait) as writable:
        problem = store.take(output)
        if problem is None:  # whoever had the lock before has built it
            return Result(True, 0.0, True, store.record)
        if problem:
            say(f"{store.place}: {problem}; {'it is discarded' if writable else 'it is not used'}")
        if problem and writable:
            store.discard()  # where that fails, `put` finds out
        record = _build(build, key, output)
        return Result(False, record["seconds"], writable and store.put(output, record), record)


def entries(cache: Path) -> Iterator[Entry]:
    """What the cache holds, each engine read and checked. Raises OSError for a folder that can't be read."""
    for folder in sorted(cache.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        record: dict[str, Any] = {}
        problem = ""
        try:
            record = _record(folder)
            _copy(folder, record, None)
        except Damaged as error:
            problem = str(error)
        parts = record.get("key", {})
        size, seconds = record.get("size", 0), record.get("seconds", 0.0)
        yield Entry(folder.name, parts, size, seconds, last_used(folder), problem)


def last_used(folder: Path) -> float:
    """When a pod last took the engine, in seconds since 1970; where none has, when it was stored.

    Raises FileNotFoundError for an entry that has gone.
    """
    try:
        return (folder / USED).stat().st_mtime
    except FileNotFoundError:
        return folder.stat().st_mtime


def discard(cache: Path, entry: Path) -> bool:
    """Takes an entry away in one step, so that nobody sees half of it; False where that can't be done."""
    try:
        doomed = Path(tempfile.mkdtemp(prefix=f".{entry.name.lstrip('.').partition('-')[0]}-", dir=cache))
    except OSError:
        return False
    try:
        entry.rename(doomed / "entry")
        return True
    except OSError:
        return False  # another pod was quicker
    finally:
        shutil.rmtree(doomed, ignore_errors=True)


def _build(build: Callable[[Path], Mapping[str, Any] | None], key: Key, output: Path) -> dict[str, Any]:
    """The engine's record. `output` is there whole or not at all, also when this process is killed."""
    began = monotonic()
    aside = output.with_name(f".{output.name}.making")
    try:
        description = build(aside)
        if not aside.is_file() or aside.stat().st_size == 0:
            raise CheckFailed(f"{output}: the build wrote no engine")
        size, sum_ = _write(aside, None)
        aside.rename(output)
    finally:
        aside.unlink(missing_ok=True)
    seconds = round(monotonic() - began, 3)
    return {
        "key": key.parts(), "sha256": sum_, "size": size, "seconds": seconds,
        "description": dict(description or {}),
    }  # fmt: skip


class Folder:
    """One key's place in a cache that is a folder."""

    def __init__(self, cache: Path, key: Key, say: Callable[[str], None]) -> None:
        self._cache, self._key, self._say = cache, key, say
        self._entry = cache / key.name
        self.record: dict[str, Any] = {}  # of the engine that was taken
        self.place = str(self._entry)

    def discard(self) -> None:
        discard(self._cache, self._entry)

    def take(self, output: Path) -> str | None:
        """Copies the entry's engine to `output`; None when that is done, else what is wrong with the entry.

        "" says that there is none.
        """
        aside = output.with_name(f".{output.name}.taking")
        try:
            if not self._entry.exists():
                return ""
            record = _record(self._entry)
            difference = self._key.difference(record["key"])
            if difference:
                return f"is of another key ({difference} differs)"
            _copy(self._entry, record, aside)
            aside.rename(output)
            self.record = record
            with suppress(OSError):  # a cache that is read-only or full: it is still used
                (self._entry / USED).write_text(f"{socket.gethostname()}\n", encoding="utf-8")
            return None
        except Damaged as error:
            return str(error)
        except OSError as error:
            return f"can't be read ({error.strerror})"
        finally:
            aside.unlink(missing_ok=True)

    @contextmanager
    def locked(self, wait: float) -> Iterator[bool]:
        """Holds the key's lock in the block, which gets whether the cache may be written.

        The lock is the kernel's (flock): it goes with the process that has it, however that ends, and holds
        for all pods of a node and, on a file system that has locks, such as NFS, for those of all nodes.
        """
        lock = self._cache / f"{self._key.name}.lock"
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            # Not removed afterwards: whoever waits for the old file would not see who has the new one.
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            self._say(f"warning: {self._cache}: can't be written ({error.strerror}), so each pod builds")
            yield False
            return
        try:
            yield self._acquire(descriptor, lock, wait)
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int, lock: Path, wait: float) -> bool:
        began = monotonic()
        waiting = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    # Entries are renamed into place whole, so two builders do no harm but to each other.
                    self._say(
                        f"warning: {lock}: can't be locked ({error.strerror}),"
                        " so pods that start together may each build"
                    )
                    return True
            if not waiting:
                waiting = True
                self._say(f"{_holder(descriptor) or 'another pod'} builds this engine; waiting for it")
            if monotonic() - began > wait:
                self._say(f"warning: no engine after {wait:g} s of waiting, so this pod builds alone")
                return False
            sleep(_POLL)
        with suppress(OSError):  # a full disk: the name is for people only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, socket.gethostname().encode(), 0)
        for stale in self._cache.glob(f".{self._key.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        return True

    def put(self, engine: Path, record: Mapping[str, Any]) -> bool:
        """Adds the engine to the cache, or says why it can't be, in one line."""
        aside: Path | None = None
        try:
            aside = Path(tempfile.mkdtemp(prefix=f".{self._key.name}-", dir=self._cache))
            aside.chmod(0o755)
            _write(engine, aside / ENGINE)
            _sync(aside / ENGINE)
            (aside / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            _sync(aside / RECORD)
            if self._entry.exists():  # one that could not be discarded, or another builder's
                discard(self._cache, self._entry)
            aside.rename(self._entry)
            return True
        except OSError as error:
            self._say(f"warning: {self._cache}: can't keep the engine ({error.strerror}), so each pod builds")
            return False
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)


def _record(folder: Path) -> dict[str, Any]:
    """What engine.json says. Raises Damaged."""
    try:
        return parsed((folder / RECORD).read_bytes())
    except FileNotFoundError as error:
        raise Damaged(f"has no {RECORD}") from error


def parsed(content: bytes) -> dict[str, Any]:
    """The record that an engine.json holds. Raises Damaged."""
    try:
        record = json.loads(content)
        if not isinstance(record["key"], dict) or not isinstance(record["sha256"], str):
            raise TypeError
        int(record["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"has an {RECORD} that is none") from error
    return dict(record)


def _copy(folder: Path, record: dict[str, Any], target: Path | None) -> None:
    """Copies the engine and checks what was copied. Raises Damaged; with no target only checks."""
    try:
        size, sum_ = _write(folder / ENGINE, target)
    except FileNotFoundError as error:
        raise Damaged(f"has no {ENGINE}") from error
    if size != record["size"]:
        raise Damaged(f"is truncated ({size} of {record['size']} bytes)")
    if sum_ != record["sha256"]:
        raise Damaged("is altered (its SHA-256 is not the recorded one)")


def _write(source: Path, target: Path | None) -> tuple[int, str]:
    """Copies a file; its size in bytes and the SHA-256 of what was copied."""
    total = hashlib.sha256()
    size = 0
    with source.open("rb") as read, (target or Path(os.devnull)).open("wb") as write:
        while chunk := read.read(_CHUNK):
            write.write(chunk)
            total.update(chunk)
            size += len(chunk)
    return size, total.hexdigest()


def _sync(file: Path) -> None:
    """Has the disk keep it before it is renamed: a full one may say so only now."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _holder(descriptor: int) -> str:
    """Name of the pod that wrote itself into the lock file."""
    with suppress(OSError, UnicodeDecodeError):
        return os.pread(descriptor, 256, 0).decode().strip()
    return ""
