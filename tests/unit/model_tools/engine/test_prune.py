"""What no pod takes any more leaves the cache; what one takes, builds or waits for stays."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import pytest

from model_tools.engine.cache import discard, entries, obtain
from model_tools.engine.key import Key
from model_tools.engine.prune import DAY, prune


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def take(cache: Path, key: Key) -> Path:
    """The entry of an engine that a pod has got."""
    output = cache.with_name("own") / "model.plan"
    obtain(cache, key, lambda file: file.write_bytes(b"engine " * 1000) and None, output)
    return cache / key.name


def age(entry: Path, days: float) -> None:
    """Makes all that it holds as old as that."""
    for path in (entry, *entry.rglob("*")):
        os.utime(path, (time() - days * DAY,) * 2)


def names(cache: Path, days: float) -> list[str]:
    return [removed.name for removed in prune(cache, days)]


def test_an_engine_goes_when_no_pod_has_taken_it_for_so_many_days(cache: Path, key: Key) -> None:
    old, recent = take(cache, key), take(cache, replace(key, version="10.7.0"))
    age(old, 31)
    age(recent, 29)
    assert names(cache, 32) == []
    (removed,) = prune(cache, 30)
    assert (removed.name, round(removed.days)) == (old.name, 31)
    assert removed.size > 7000
    assert [entry.name for entry in entries(cache)] == [recent.name]
    assert not take(cache, key).samefile(recent), "it is built again when it is needed"


def test_a_pod_that_takes_an_engine_keeps_it(cache: Path, key: Key) -> None:
    entry = take(cache, key)
    age(entry, 100)
    take(cache, key)
    age(cache / f"{key.name}.lock", 100)
    assert names(cache, 1) == []
    (listed,) = entries(cache)
    assert listed.used == pytest.approx(time(), abs=60)


def test_an_engine_that_a_pod_builds_is_left_to_it(pod: Any, cache: Path, key: Key) -> None:
    builder = pod()
    builder.until_it_builds()
    half = cache / f".{key.name}-abc"
    half.mkdir()
    age(half, 100)
    assert names(cache, 1) == []
    builder.finish()
    assert names(cache, 1) == [half.name], "the lock is free, and nobody comes back to it"
    assert [entry.name for entry in entries(cache)] == [key.name]


def test_nothing_but_engines_is_removed(cache: Path, key: Key) -> None:
    take(cache, key)
    for name in ("timing-10.6.0-7.5.cache", "lost+found", "notes"):
        (cache / name).mkdir()
        age(cache / name, 1000)
    age(cache / key.name, 1000)
    before = {path.name for path in cache.iterdir()}
    assert names(cache, 1) == [key.name]
    assert {path.name for path in cache.iterdir()} == before - {key.name}, "locks stay: pods may hold them"


def test_an_entry_that_another_pod_takes_away_meanwhile_is_no_error(cache: Path, key: Key) -> None:
    entry = take(cache, key)
    age(entry, 100)

    def clock() -> float:
        discard(cache, entry)  # asked for once the entry was seen
        return time()

    assert list(prune(cache, 1, clock)) == []
    assert list(entries(cache)) == []
    assert not discard(cache, entry)
