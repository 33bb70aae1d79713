"""Where the cluster keeps what it builds, and what it runs from."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model_tools.console import BadInput
from model_tools.files import cache_folder

REPOSITORY = Path(__file__).resolve().parents[1]
COMPONENTS = Path(__file__).resolve().parent / "components"
MANIFESTS = Path(__file__).resolve().parent / "manifests"


def cache() -> Path:
    """Things that are dear to make and keyed by what they are made from; survives `cluster down`."""
    return cache_folder()


def name() -> str:
    """The cluster's name: several may run side by side. Raises BadInput for what can't name a folder."""
    said = os.environ.get("CLUSTER_NAME", "inference-system")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", said):
        raise BadInput(f"CLUSTER_NAME: {said!r} is not made of lower-case letters, digits and dashes")
    return said


def state() -> Path:
    """The running cluster: nodes' disks, logs, kubeconfig; removed by `cluster down`."""
    return _home("XDG_STATE_HOME", ".local/state") / "clusters" / name()


def address_range() -> int:
    """Which range its nodes and pods have their addresses from, 1 to 3.

    Clusters of unlike ranges can be reached from one place. A cluster keeps that which it was made with.

    Raises BadInput for a CLUSTER_RANGE that is none.
    """
    said = os.environ.get("CLUSTER_RANGE", "1")
    if said not in ("1", "2", "3"):
        raise BadInput(f"CLUSTER_RANGE: {said!r} is not 1, 2 or 3")
    try:
        return int((state() / "range").read_text())
    except FileNotFoundError:
        return int(said)


def keep_address_range() -> None:
    """Writes down which one the cluster is made with."""
    kept = address_range()
    state().mkdir(parents=True, exist_ok=True)
    (state() / "range").write_text(str(kept))


def logs() -> Path:
    return state() / "log"


def kubeconfig() -> Path:
    return state() / "kubeconfig"


@contextmanager
def making(name: str) -> Iterator[None]:
    """Lets one process at a time make a thing of the cache; the others find it made."""
    folder = cache() / "lock"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def only_one(name: str, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Lets one process at a time do what goes by that name; the next waits and says for what."""
    folder = cache() / "lock"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            say(f"waiting for another {what} (process {lock.read().strip() or '?'})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):  # no disk left is no reason not to take a cluster down
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()
        yield


def remove_halves(folder: Path, pattern: str) -> None:
    """What processes that were killed in the middle left of a thing. Call it inside `making`."""
    for left in folder.glob(pattern):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _home(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "inference-system"
