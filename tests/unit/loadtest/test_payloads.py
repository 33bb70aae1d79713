"""Payloads fit any image model, and wrong answers do not pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loadtest.payloads import PICTURES, ModelInterface, WrongAnswer, check_answer, pictures
from model_tools.console import BadInput


def metadata(shape: list[int], datatype: str = "UINT8", output: str = "probabilities") -> dict[str, Any]:
    return {
        "name": "resnet50",
        "inputs": [{"name": "image", "datatype": datatype, "shape": shape}],
        "outputs": [{"name": output, "datatype": "FP32", "shape": [-1, 10]}],
    }


@pytest.mark.parametrize(
    ("shape", "datatype", "expected"),
    [
        ([-1, 224, 224, 3], "UINT8", (1, 224, 224, 3)),
        ([224, 224, 3], "FP32", (224, 224, 3)),
        ([-1, 3, 64, 96], "FP32", (1, 3, 64, 96)),
        ([-1, 28, 28, 1], "UINT8", (1, 28, 28, 1)),
        ([-1, -1, -1, 3], "FP16", (1, 224, 224, 3)),
        ([-1, -1, -1, -1], "UINT8", (1, 224, 224, 3)),
    ],
    ids=["NHWC", "no batch dimension", "NCHW", "grey", "any size", "anything"],
)
def test_every_picture_fits_the_models_input(
    shape: list[int], datatype: str, expected: tuple[int, ...]
) -> None:
    model = ModelInterface.from_metadata(metadata(shape, datatype))
    tensors = pictures(model)
    assert model.input_shape == expected
    assert len(tensors) == len(PICTURES)
    for tensor in tensors:
        assert tensor.shape == expected
        assert tensor.flags.c_contiguous
        assert tensor.std(dtype=float) > 10, "a real picture, with contrast"
        assert tensor.min() >= 0
        assert tensor.max() <= 255
    assert len({tensor.tobytes() for tensor in tensors}) == len(tensors), "all of them different"


def test_channels_first_and_last_show_the_same_picture() -> None:
    last = pictures(ModelInterface.from_metadata(metadata([-1, 64, 96, 3])))
    first = pictures(ModelInterface.from_metadata(metadata([-1, 3, 64, 96])))
    for one, other in zip(last, first, strict=True):
        np.testing.assert_array_equal(one[0].transpose(2, 0, 1), other[0])


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (metadata([-1, 128]), r"shape \[-1, 128\]"),
        (metadata([-1, 224, 224, 4]), "4 channels"),
        (metadata([-1, 224, 224, 3], "BYTES"), "BYTES"),
        ({"name": "two", "inputs": [{}, {}], "outputs": [{}]}, "2 inputs"),
        ({"name": "none", "inputs": [{}], "outputs": []}, "0 outputs"),
    ],
)
def test_a_model_that_takes_no_picture_is_refused_by_name(broken: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named) as refused:
        ModelInterface.from_metadata(broken)
    assert f"model {broken['name']}" in str(refused.value)


GOOD = np.full(10, 0.1, np.float32)


def changed(index: int, value: float) -> np.ndarray:
    answer = GOOD.copy()
    answer[index] = value
    return answer


@pytest.mark.parametrize(
    ("shape", "values", "named"),
    [
        ((1, 9), GOOD[:9], r"shape \[1, 9\]"),
        ((10,), GOOD, r"shape \[10\]"),
        ((1, 10), GOOD[:0], "holds 0 values"),
        ((1, 10), changed(3, np.nan), "not finite"),
        ((1, 10), changed(3, np.inf), "not finite"),
        ((1, 10), changed(3, 0.5), "adds up to 1.4"),
        ((1, 10), np.zeros(10, np.float32), "adds up to 0"),
        ((1, 10), np.array([2, -1, 0, 0, 0, 0, 0, 0, 0, 0], np.float32), "no probability distribution"),
    ],
    ids=["shape", "rank", "empty", "NaN", "infinity", "sum", "zeros", "negative"],
)
def test_a_wrong_answer_says_what_is_wrong(shape: tuple[int, ...], values: np.ndarray, named: str) -> None:
    model = ModelInterface.from_metadata(metadata([-1, 224, 224, 3]))
    check_answer(model, (1, 10), GOOD)
    with pytest.raises(WrongAnswer, match=named):
        check_answer(model, shape, values)


def test_scores_that_are_no_probabilities_need_not_add_up_to_one() -> None:
    model = ModelInterface.from_metadata(metadata([-1, 224, 224, 3], output="logits"))
    check_answer(model, (1, 10), np.arange(10, dtype=np.float32))
