"""Weights as integers lose at most half a step, and scales survive being FP16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from networks import residual

from model_tools.quantize.graph import Graph, simplify
from model_tools.quantize.placement import place
from model_tools.quantize.qdq import LEVELS, SMALLEST_SCALE, insert, quantize_weights, scale_of

weights = nps.arrays(
    np.float32, nps.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-1e3, 1e3, width=32)
)


@given(weights, st.booleans(), st.data())
def test_a_weight_is_off_by_half_a_step_at_most(array: np.ndarray, half: bool, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, array.ndim - 1))
    steps, scales = quantize_weights(array, axis, half)
    assert steps.dtype == np.int8
    assert np.abs(steps.astype(int)).max() <= LEVELS
    assert scales.shape == (array.shape[axis],)
    shape = [-1 if one == axis else 1 for one in range(array.ndim)]
    error = np.abs(steps * scales.reshape(shape) - array)
    assert (error <= scales.reshape(shape) * 0.5001).all()


@given(st.floats(0, 1e6, width=32), st.booleans())
def test_a_scale_keeps_the_largest_value_and_is_never_zero(largest: float, half: bool) -> None:
    scale = float(scale_of(largest, half))
    assert scale > 0
    assert largest <= scale * LEVELS * 1.000001
    if half:
        assert float(np.float16(scale)) == scale
        assert scale >= SMALLEST_SCALE


def inserted(half: bool = False) -> onnx.ModelProto:
    graph = Graph(residual())
    simplify(graph)
    placement = place(graph)
    insert(graph, placement, {tensor: 1.0 + index for index, tensor in enumerate(placement.tensors)}, half)
    model = graph.finished()
    assert isinstance(model, onnx.ModelProto)
    return model


def test_a_tensor_has_one_pair_with_its_range() -> None:
    model = inserted()
    quantized = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    readers = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for index, node in enumerate(sorted(pairs, key=lambda node: constants[node.input[1]])):
        assert constants[node.input[1]] == pytest.approx((1 + index) / 127)
        assert constants[node.input[2]] == 0
        assert constants[node.input[2]].dtype == np.int8
        assert readers[node.output[0]].input[1] == node.input[1]


def test_weights_are_int8_with_a_scale_for_each_output_channel_and_biases_stay_float() -> None:
    model = inserted()
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) == 16
    for node in weighted:
        restored = made[node.input[1]]
        assert restored.op_type == "DequantizeLinear"
        stored, scales = (constants[name] for name in restored.input[:2])
        assert stored.dtype == np.int8
        assert scales.shape == stored.shape[:1]
        assert [attribute.i for attribute in restored.attribute if attribute.name == "axis"] == [0]
        assert constants[node.input[2]].dtype == np.float32
