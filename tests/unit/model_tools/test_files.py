"""A folder that is written exists whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_tools.files import cached, written_aside


def test_a_failure_leaves_the_folder_before_and_nothing_beside_it(tmp_path: Path) -> None:
    with written_aside(tmp_path / "a") as folder:
        (folder / "first").write_text("")
    writer = written_aside(tmp_path / "a")
    (writer.__enter__() / "second").write_text("")
    assert not writer.__exit__(RuntimeError, RuntimeError(), None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["first"]


def test_the_cache_builds_once_and_keeps_no_half_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("")
        if len(built) == 1:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cached("kind", "key", build)
    assert not list((tmp_path / "inference-system" / "kind").iterdir())
    entry = cached("kind", "key", build)
    assert cached("kind", "key", build) == entry
    assert len(built) == 2
    assert (entry / "file").exists()
