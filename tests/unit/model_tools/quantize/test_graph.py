"""Folding changes the graph and not its answers; what can't be folded exactly stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import SIDE, Builder, residual
from onnx import helper

from model_tools.console import BadInput
from model_tools.quantize.graph import Graph, simplify

PIXELS = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)


def answers(model: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": PIXELS})[0]


def kinds(model: Any) -> set[str]:
    return {node.op_type for node in model.graph.node}


def simplified(model: Any) -> Any:
    graph = Graph(onnx.ModelProto.FromString(model.SerializeToString()))
    simplify(graph)
    return graph.finished()


def closed(build: Builder, tensor: str, channels: int) -> Any:
    """The model whose answers are the means of a tensor's channels."""
    pooled = build.node("GlobalAveragePool", tensor)
    return build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), channels)


def test_what_stands_in_the_way_of_int8_is_gone_and_the_answers_are_the_same() -> None:
    model = residual()
    made = simplified(model)
    assert {"Slice", "Concat", "Pad", "MatMul"} <= kinds(model)
    assert not {"Slice", "Concat", "Pad", "MatMul"} & kinds(made)
    assert np.allclose(answers(made), answers(model), atol=1e-5)


def test_batch_normalization_goes_into_its_convolution() -> None:
    build = Builder()
    conv = build.conv(build.pixels(), 3, 8, 3)
    moments = [build.constant(build.random.uniform(0.5, 2, 8)) for _ in range(4)]
    model = closed(build, build.node("BatchNormalization", conv, *moments, epsilon=1e-3), 8)
    made = simplified(model)
    assert "BatchNormalization" not in kinds(made)
    assert np.allclose(answers(made), answers(model), atol=1e-4)


def test_batch_normalization_of_what_others_read_stays() -> None:
    build = Builder()
    conv = build.conv(build.pixels(), 3, 8, 3)
    moments = [build.constant(build.random.uniform(0.5, 2, 8)) for _ in range(4)]
    normal = build.node("BatchNormalization", conv, *moments)
    model = closed(build, build.node("Add", normal, conv), 8)
    assert "BatchNormalization" in kinds(simplified(model))


def padded(pads: list[int], before: str | None, value: float = 0.0) -> Any:
    build = Builder()
    tensor = build.conv(build.pixels(), 3, 8, 3)
    tensor = build.node(before, tensor) if before else tensor
    tensor = build.node("Pad", tensor, build.constant(pads, "int64"), build.constant(value))
    pooled = build.node("MaxPool", tensor, kernel_shape=[3, 3], strides=[2, 2])
    return closed(build, pooled, 8 + pads[1] + pads[5])


@pytest.mark.parametrize(
    ("model", "folds"),
    [
        (lambda: padded([0, 0, 1, 0, 0, 0, 2, 1], "Relu"), True),
        (lambda: padded([0, 0, 1, 1, 0, 0, 1, 1], None), False),  # zero is above what is negative
        (lambda: padded([0, 0, 1, 1, 0, 0, 1, 1], "Relu", 1.0), False),
        (lambda: padded([0, 1, 1, 1, 0, 1, 1, 1], "Relu"), False),  # channels
        (lambda: padded([0, 0, 3, 1, 0, 0, 1, 1], "Relu"), False),  # a window of nothing but padding
    ],
)
def test_zeros_around_a_pool_are_its_pads_only_where_that_is_the_same(
    model: Callable[[], Any], folds: bool
) -> None:
    made = simplified(model())
    assert ("Pad" not in kinds(made)) == folds
    assert np.allclose(answers(made), answers(model()), atol=1e-5)


def test_zeros_around_a_convolution_are_its_pads() -> None:
    build = Builder()
    tensor = build.node("Pad", build.pixels(), build.constant([0, 0, 3, 2, 0, 0, 1, 0], "int64"))
    model = closed(build, build.conv(tensor, 3, 8, 3), 8)
    made = simplified(model)
    assert "Pad" not in kinds(made)
    assert np.allclose(answers(made), answers(model), atol=1e-5)


def test_an_order_of_channels_that_somebody_else_reads_stays() -> None:
    build = Builder()
    pixels = build.pixels()
    summed = build.node("Add", build.conv(pixels, 3, 3, 3), pixels)
    assert "Concat" in kinds(simplified(closed(build, summed, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.graph.node.append(helper.make_node("Odd", ["image"], ["x"], domain="mine")),
         "mine.Odd, an operator that ONNX does not define"),
        (lambda model: model.graph.node[0].ClearField("op_type"), "is no ONNX model"),
    ],
)  # fmt: skip
def test_what_can_not_be_quantized_is_named(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    model = residual()
    change(model)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match=message):
        Graph.load(tmp_path / "model.onnx")


def test_no_model_at_all_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BadInput, match="is no ONNX model"):
        Graph.load(tmp_path / "model.onnx")
