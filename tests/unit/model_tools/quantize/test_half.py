"""The FP16 graph is typed throughout, keeps input and output, and says what it could not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from networks import SIDE, Builder, residual
from onnx import TensorProto

from model_tools.quantize.graph import Graph, simplify
from model_tools.quantize.half import Saturation, to_half
from model_tools.quantize.placement import place
from model_tools.quantize.qdq import insert

PIXELS = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)


def answers(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"image": PIXELS})[0]


def types(model: Any) -> dict[str, int]:
    """Element type of every tensor, by strict inference."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def converted(model: Any) -> tuple[Any, Saturation]:
    graph = Graph(model)
    simplify(graph)
    saturation = to_half(graph)
    return graph.finished(), saturation


def test_everything_is_fp16_but_pixels_softmax_and_the_output() -> None:
    model, saturation = converted(residual())
    assert saturation.values == 0
    assert {one.version for one in model.opset_import if one.domain == ""} == {19}
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [TensorProto.UINT8]
    assert [value.type.tensor_type.elem_type for value in model.graph.output] == [TensorProto.FLOAT]
    found = types(model)
    floats = {name for name, kind in found.items() if kind == TensorProto.FLOAT}
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    assert floats == {*softmax.input, *softmax.output}
    assert {node.op_type for node in model.graph.node if "image" in node.input} == {"Cast"}
    assert np.abs(answers(model) - answers(residual())).max() < 0.02


def test_scales_are_fp16_where_the_rest_is() -> None:
    graph = Graph(residual())
    simplify(graph)
    placement = place(graph)
    insert(graph, placement, dict.fromkeys(placement.tensors, 3.0), half=True)
    to_half(graph)
    model = graph.finished()
    found = types(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert found[node.input[1]] == TensorProto.FLOAT16
    assert np.isfinite(answers(model)).all()


def test_constants_beyond_fp16_are_cut_and_counted() -> None:
    build = Builder()
    large = build.constant(np.array([1e6, -2e6, 3.0]).reshape(1, 3, 1, 1))
    pooled = build.node("GlobalAveragePool", build.conv(build.node("Add", build.pixels(), large), 3, 8))
    model, saturation = converted(
        build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), 8)
    )
    assert saturation == Saturation(values=2, largest=2e6)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert max(np.abs(array).max() for array in stored if array.dtype == np.float16) == 65504


def test_what_onnx_defines_for_fp32_alone_stays_fp32() -> None:
    build = Builder()
    scales = build.constant([1, 1, 2, 2])
    resized = build.node("Resize", build.pixels(), "", scales, mode="nearest")
    pooled = build.node("GlobalAveragePool", build.conv(resized, 3, 8))
    model, _ = converted(build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), 8))
    (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
    found = types(model)
    assert found[resize.input[2]] == TensorProto.FLOAT
    assert found[resize.output[0]] == TensorProto.FLOAT16
    assert np.isfinite(answers(model)).all()
