"""A quantized model is served with an evaluation of this very model that it passed, or on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_tools import bundle
from model_tools.bundle import Bundle
from model_tools.console import BadInput
from model_tools.evaluate import verdict
from model_tools.evaluate.runtimes import choose


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    def make(precision: str) -> Path:
        folder = tmp_path / precision
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"weights")
        tensor = {"name": "x", "data_type": "UINT8", "shape": [1]}
        metadata = {"name": "m", "precision": precision, "input": tensor, "output": tensor}
        bundle.write(folder, metadata, np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
        return folder

    return make


def write(folder: Path, **changes: Any) -> None:
    model = Bundle.load(folder).metadata["digest"]
    verdict.write(folder, {"model": model, "passed": True, "top1_drop": 0.1} | changes)


def test_an_fp32_model_needs_none(folder: Callable[[str], Path]) -> None:
    verdict.demand(Bundle.load(folder("fp32")))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_quantized_model_needs_one_that_passed(folder: Callable[[str], Path], precision: str) -> None:
    made = folder(precision)
    with pytest.raises(BadInput, match=f"is {precision}, and what that costs in accuracy is not known"):
        verdict.demand(Bundle.load(made))
    write(made)
    verdict.demand(Bundle.load(made))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passed": False, "top1_drop": 3.2}, "the model failed, with a top-1 drop of 3.2 points"),
        ({"passed": "yes"}, "the model failed"),
        ({"model": "sha256:0"}, "is of another model.onnx"),
    ],
)
def test_one_that_does_not_count_is_named(
    folder: Callable[[str], Path], changes: dict[str, Any], message: str
) -> None:
    made = folder("int8")
    write(made, **changes)
    with pytest.raises(BadInput, match=message) as error:
        verdict.demand(Bundle.load(made))
    assert "--allow-unevaluated" in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "null", json.dumps({"passed": True})])
def test_a_broken_one_is_none(folder: Callable[[str], Path], content: str) -> None:
    made = folder("int8")
    (made / verdict.VERDICT).write_text(content)
    with pytest.raises(BadInput, match="is no evaluation"):
        verdict.demand(Bundle.load(made))


def test_bf16_is_what_the_processor_says_it_has() -> None:
    assert choose("bf16", ["BF16", "FP32", "INT8"]) == ("bf16", "")
    precision, note = choose("bf16", ["FP32", "INT8"])
    assert precision == "fp32"
    assert note == "this processor has no BF16 (FP32, INT8); OpenVINO computes in FP32"
    assert choose("fp32", ["FP32"]) == ("fp32", "")
