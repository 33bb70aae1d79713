"""The GPU benchmarks' own parts: records that go on, pieces that come together, ranges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import report
from benchmarks.gpu.engines import ranges, source
from benchmarks.gpu.pack import Pieces, Slice, cut, slim
from benchmarks.gpu.record import Record

KEY = ("rung", "batch")


def fail() -> dict[str, Any]:
    raise RuntimeError("out of memory")


def test_a_record_goes_on_where_it_stopped_and_tries_failures_again(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    record = Record(file, {"gpu": "one"}, KEY)
    assert record.add(lambda: {"rate": 1}, rung="fp32", batch=1) == {"rung": "fp32", "batch": 1, "rate": 1}
    assert record.add(fail, rung="fp32", batch=2) is None
    assert json.loads(file.read_text())["cases"][1]["error"] == "RuntimeError: out of memory"

    record = Record(file, {"gpu": "one"}, KEY)
    assert record.has(rung="fp32", batch=1)
    assert not record.has(rung="fp32", batch=2)
    assert record.add(fail, rung="fp32", batch=1) == {"rung": "fp32", "batch": 1, "rate": 1}
    record.add(lambda: {"rate": 2}, rung="fp32", batch=2)
    assert [case["rate"] for case in json.loads(file.read_text())["cases"]] == [1, 2]


def test_archives_cut_into_pieces_are_read_back_one_by_one(tmp_path: Path) -> None:
    archives = []
    for name, content in (("a", b"x" * 1000), ("b", b"y" * 2500), ("c", b"")):
        (tmp_path / name).write_bytes(content)
        archives.append(tmp_path / name)
    (tmp_path / "pieces").mkdir()
    pieces = cut(archives, tmp_path / "pieces", 1024)
    assert [(tmp_path / "pieces" / piece["name"]).stat().st_size for piece in pieces] == [
        1024,
        1024,
        1024,
        428,
    ]
    stream = Pieces([tmp_path / "pieces" / piece["name"] for piece in pieces])
    for archive in archives:
        part = Slice(stream, archive.stat().st_size)
        assert b"".join(iter(lambda part=part: part.read(100), b"")) == archive.read_bytes()


def test_of_an_interpreter_what_runs_it_is_packed(tmp_path: Path) -> None:
    files = (
        "bin/python3.11", "lib/libpython3.11.so.1.0", "lib/python3.11/os.py",
        "lib/python3.11/test/test_os.py", "lib/python3.11/site-packages/pip.py", "share/man",
    )  # fmt: skip
    for name in files:
        (tmp_path / "3.11" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "3.11" / name).touch()
    (tmp_path / "3.11" / "bin" / "python3").symlink_to("python3.11")
    slim(tmp_path / "3.11", tmp_path / "python")
    packed = {str(file.relative_to(tmp_path / "python")) for file in (tmp_path / "python").rglob("*")}
    assert packed == {
        "bin", "bin/python3", "bin/python3.11", "lib", "lib/libpython3.11.so.1.0", "lib/python3.11",
        "lib/python3.11/os.py",
    }  # fmt: skip


@pytest.mark.parametrize(
    "content", [{"x": 2.5}, {"ranges": {"x": [-2.5, 1.0]}, "method": "max"}, {"x": {"min": -1, "max": 2.5}}]
)
def test_ranges_are_largest_magnitudes(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "ranges.json").write_text(json.dumps(content))
    assert ranges(tmp_path / "ranges.json") == {"x": 2.5}


def test_a_rung_is_a_folder_and_a_precision(tmp_path: Path) -> None:
    (tmp_path / "fp32-simplified").mkdir()
    expected = {
        "fp32": ("fp32", "fp32"), "tf32": ("fp32", "tf32"), "fp16": ("fp16", "fp16"),
        "fp16-flags": ("fp32", "fp16"), "int8": ("int8", "int8"),
        "int8-rest-fp32": ("int8-rest-fp32", "int8"), "int8-implicit": ("fp32-simplified", "int8"),
    }  # fmt: skip
    for rung, (folder, precision) in expected.items():
        assert source(tmp_path, rung) == (tmp_path / folder, precision)
    shutil.rmtree(tmp_path / "fp32-simplified")
    assert source(tmp_path, "int8-implicit") == (tmp_path / "fp32", "int8")


def test_a_hosts_gpus_are_compared_with_one_of_the_same_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {(1, 0): 100, (2, 0): 150, (1, 1): 200, (2, 1): 380, (1, 2): 50, (2, 2): 100}
    cases = [
        {"case": "cuda", "gpus": gpus, "round": turn, "images_per_s": rate}
        for (gpus, turn), rate in rates.items()
    ]
    (tmp_path / "h200-fleet-2.json").write_text(json.dumps({"gpus": 2, "cases": cases}))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert report.fleets() == {("cuda", 2): [(1, 100, 1.0), (2, 150, 1.9)]}


def test_the_tables_are_those_of_the_records() -> None:
    document = "before\n<!-- gpu engines -->\nold\n<!-- end -->\nafter <!-- gpu hosts -->\n<!-- end -->\n"
    document += "<!-- gpu triton -->\n<!-- end -->\n"
    made = report.written(document)
    assert "old" not in made
    assert made.startswith("before\n")
    (row,) = [line for line in made.splitlines() if line.startswith("| 256 | 1 |")]
    assert " 42,868 | 68,553 | " in row
    assert "| FP16 | 37,069 | 41,488 | 34,304 | 83 % | 32,896 | 79 % | 12,934 |" in made
    assert report.written(made) == made
