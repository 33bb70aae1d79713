"""Folders that exist whole or not at all, and the cache made of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model_tools.console import BadInput


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Gives an empty folder beside `target` that takes its place when the block ends well.

    An existing `target` is replaced, and kept when the block fails. Raises BadInput if it can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise BadInput(f"{target}: is a file, and a folder is to be written there")
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise BadInput(f"{target}: can't be written ({error.strerror})") from error
    try:
        aside.chmod(0o755)
        yield aside
        old = aside.with_name(aside.name + "-old")
        if target.exists():
            target.rename(old)
        aside.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def cache_folder() -> Path:
    """Where build results are kept outside the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-system"


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The cache entry `kind`/`key`; where it is missing, `build` fills an empty folder that becomes it."""
    entry = cache_folder() / kind / key
    if not entry.is_dir():
        with written_aside(entry) as aside:
            build(aside)
    return entry
