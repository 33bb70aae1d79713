"""`model-tools engine prune`: removes from a cache what no pod has taken for a long time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import time

import click

from model_tools.console import BadInput
from model_tools.engine.cache import discard, last_used

DAY = 86400.0  # seconds
# An entry, or what a builder that died left of one; nothing else in the folder is touched.
_ENTRY = re.compile(r"\.?(?P<key>[0-9a-f]{64})(-.*)?")


@dataclass(frozen=True)
class Removed:
    """An entry that is gone: its folder's name, bytes, and the days for which nobody had taken it."""

    name: str
    size: int
    days: float

    def __str__(self) -> str:
        return f"{self.name[:12]}  {self.size / 2**20:.1f} MiB, not used for {self.days:.0f} days: removed"


@click.command("prune", short_help="Remove engines that no pod uses any more.")
@click.argument("cache", type=click.Path(path_type=Path))
@click.option("--keep-days", required=True, type=click.IntRange(1), metavar="N",
              help="Keep what a pod has taken in the last N days.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as JSON.")
def command(cache: Path, keep_days: int, as_json: bool) -> None:
    """Remove from CACHE the engines that no pod has taken for N days.

    `engine build` notes each use. One that a pod is building or waits for is left alone, and a pod that
    serves does not notice, for it has its own copy. Whoever needs a removed engine again builds it.
    """
    try:
        removed = list(prune(cache, keep_days))
    except OSError as error:
        raise BadInput(f"{cache}: {(error.strerror or 'can not be read').lower()}") from error
    if as_json:
        click.echo(json.dumps([asdict(each) for each in removed], indent=2))
        return
    for each in removed:
        click.echo(str(each))
    click.echo(f"{len(removed)} removed, {sum(each.size for each in removed) / 2**20:.1f} MiB")


def prune(cache: Path, days: float, now: Callable[[], float] = time) -> Iterator[Removed]:
    """Removes the entries that were last used more than `days` days ago. Raises OSError for a bad folder."""
    for folder in sorted(cache.iterdir()):
        match = _ENTRY.fullmatch(folder.name)
        if not match or not folder.is_dir() or _days(folder, now) <= days:
            continue
        with _nobody_at(cache / f"{match['key']}.lock") as alone:
            unused = _days(folder, now)  # whoever had the lock before may have taken it
            if not alone or unused <= days:
                continue
            size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
            if discard(cache, folder):
                yield Removed(folder.name, size, unused)


def _days(folder: Path, now: Callable[[], float]) -> float:
    """Since it was used; 0 for one that another pod has just taken away."""
    try:
        return (now() - last_used(folder)) / DAY
    except FileNotFoundError:
        return 0.0


@contextmanager
def _nobody_at(lock: Path) -> Iterator[bool]:
    """Holds the key's lock in the block, which gets whether that is so; it waits for nobody.

    The lock's file stays: a pod that waits for it would not see who locks the next one.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield False  # nothing can be removed either
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError as error:
            # Without locks an entry still goes in one step, so it costs a pod that needs it a build.
            alone = error.errno not in (errno.EWOULDBLOCK, errno.EINTR)
        yield alone
    finally:
        os.close(descriptor)
