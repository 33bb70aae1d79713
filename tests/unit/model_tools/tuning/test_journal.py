"""Measurements survive the process that made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_tools.console import BadInput
from model_tools.tuning.journal import Journal


def test_a_later_run_finds_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "new" / "journal.jsonl"
    with Journal(file, {"load": (1, 2)}) as journal:
        journal.add({"value": 1})
        journal.add({"value": 2})
    with Journal(file, {"load": (1, 2)}) as journal:
        assert journal.entries == [{"value": 1}, {"value": 2}]
        journal.add({"value": 3})
    with Journal(file, {"load": (1, 2)}) as journal:
        assert [entry["value"] for entry in journal.entries] == [1, 2, 3]


def test_an_entry_is_on_the_disk_before_the_next_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file, {}) as journal:
        journal.add({"value": 1})
        assert '{"value": 1}' in file.read_text()


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file, {}) as journal:
        journal.add({"value": 1})
        journal.add({"value": 2})
    file.write_text(file.read_text()[:-5])
    with Journal(file, {}) as journal:
        assert journal.entries == [{"value": 1}]
        journal.add({"value": 3})
    with Journal(file, {}) as journal:
        assert journal.entries == [{"value": 1}, {"value": 3}]


def test_measurements_of_something_else_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file, {"users": 8, "seconds": 2}) as journal:
        journal.add({"value": 1})
    with pytest.raises(BadInput, match=r"journal\.jsonl: was measured with another users; --restart"):
        Journal(file, {"users": 9, "seconds": 2})
    with Journal(file, {"users": 9, "seconds": 2}, restart=True) as journal:
        assert journal.entries == []


@pytest.mark.parametrize("content", ["hello\n", '["a list"]\n', '{"value": 1}\n', "\xff"])
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInput, match=str(file)):
        Journal(file, {})
    assert file.read_bytes() == content.encode("latin-1")
