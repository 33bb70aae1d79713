"""Whatever makes an engine useless elsewhere changes its key, and nothing else does."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from model_tools.console import BadInput
from model_tools.engine.key import Key, Limits, calibration_digest, model_digest


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", "b" * 64),
        ("calibration", "c" * 64),
        ("precision", "int8"),
        ("runtime", "openvino"),
        ("version", "10.6.1"),
        ("builder", 2),
        ("device", {"gpu": "NVIDIA L4", "compute_capability": "7.5"}),
        ("device", {"gpu": "Tesla T4", "compute_capability": "8.9"}),
        ("profile", {"min": 1, "opt": 8, "max": 16}),
        ("profile", {"min": 1, "opt": 16, "max": 32}),
        ("settings", {"level": 5}),
    ],
)
def test_every_part_changes_the_name_and_is_named_as_the_difference(part: str, value: Any, key: Key) -> None:
    other = Key(**{**asdict(key), part: value})
    assert other.name != key.name
    assert key.difference(other.parts()) == part


def test_every_field_of_a_key_is_tried_above() -> None:
    marks = test_every_part_changes_the_name_and_is_named_as_the_difference.pytestmark
    assert {part for part, _ in marks[0].args[1]} == set(Key.__dataclass_fields__)


def test_the_name_is_the_sha256_of_canonical_json(key: Key) -> None:
    """Of bytes written out here: a Python that orders or spaces otherwise must not lose every engine."""
    text = (
        '{"builder":1,"calibration":"","device":{"compute_capability":"7.5","gpu":"Tesla T4"},"model":"'
        + "a" * 64
        + '","precision":"fp16","profile":{"max":16,"min":1,"opt":16},'
        '"runtime":"tensorrt","settings":{},"version":"10.6.0"}'
    )
    assert key.name == hashlib.sha256(text.encode()).hexdigest()


def test_a_record_with_a_part_more_or_less_is_another_key(key: Key) -> None:
    parts = key.parts()
    assert key.difference(parts) == ""
    assert key.difference({**parts, "driver": "580"}) == "driver"
    del parts["device"]
    assert key.difference(parts) == "device"


class TestModelDigest:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "model.onnx").write_bytes(b"graph")
        return tmp_path

    def test_changes_with_the_model_and_with_weights_beside_it(self, folder: Path) -> None:
        seen = {model_digest(folder)}
        (folder / "model.onnx").write_bytes(b"another graph")
        seen.add(model_digest(folder))
        (folder / "weights.bin").write_bytes(b"w")
        seen.add(model_digest(folder))
        (folder / "weights.bin").write_bytes(b"v")
        seen.add(model_digest(folder))
        assert len(seen) == 4

    def test_does_not_change_with_descriptions_or_with_an_engine_that_was_built(self, folder: Path) -> None:
        before = model_digest(folder)
        (folder / "warmup").mkdir()
        for name in (
            "model.json", "reference.npz", "warmup/sample", "calibration.json", "evaluation.json",
            "SHA256SUMS", "model.plan", "model.plan.json", "model.blob", "model.blob.json", ".making",
        ):  # fmt: skip
            (folder / name).write_text(name)
        assert model_digest(folder) == before

    def test_a_calibration_is_a_part_of_its_own(self, folder: Path) -> None:
        before = model_digest(folder)
        assert calibration_digest(folder) == ""
        (folder / "calibration.cache").write_bytes(b"scales")
        assert calibration_digest(folder) == hashlib.sha256(b"scales").hexdigest()
        assert model_digest(folder) == before

    def test_a_model_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"model\.onnx: no such file"):
            model_digest(tmp_path)
        with pytest.raises(BadInput, match=r"none/model\.onnx: no such folder"):
            model_digest(tmp_path / "none")
        (tmp_path / "model.onnx").touch()
        with pytest.raises(BadInput, match=r"model\.onnx: is empty"):
            model_digest(tmp_path)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"maximum": 0, "preferred": (1,)}, "--max-batch"),
        ({"preferred": (9,)}, "--preferred-batch: 9 is not within 1 and 8"),
        ({"preferred": (4, 0)}, "--preferred-batch"),
        ({"preferred": (4, 4)}, "--preferred-batch"),
        ({"preferred": ()}, "--preferred-batch"),
        ({"level": 6}, "--level: 6 is not within 0 and 5"),
        ({"workspace": -1}, "--workspace"),
    ],
)
def test_impossible_limits_are_named(limits: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        Limits("fp16", **{"maximum": 8, "preferred": (8,), **limits})
