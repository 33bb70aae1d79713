"""INT8 graphs as TensorRT 8.6 takes them: the same answers, and no constant in INT8 in front of anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import residual

from model_tools.console import BadInput
from model_tools.engine.builders.eight import with_float_weights
from model_tools.quantize.graph import Graph, simplify
from model_tools.quantize.placement import place
from model_tools.quantize.qdq import insert


def test_weights_are_floats_that_a_node_quantizes_to_what_they_were(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = Graph(residual())
    simplify(graph)
    placement = place(graph)
    insert(graph, placement, dict.fromkeys(placement.tensors, 4.0), half=False)
    given = graph.finished()
    onnx.save(given, tmp_path / "model.onnx")
    content = with_float_weights(tmp_path / "model.onnx")
    assert content is not None

    made = onnx.ModelProto.FromString(content)
    onnx.checker.check_model(made, full_check=True)
    constants = {value.name: value.data_type for value in made.graph.initializer}
    read = [node.input[0] for node in made.graph.node if node.op_type == "DequantizeLinear"]
    assert not constants.keys() & set(read)
    quantized = [node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert {constants[name] for name in quantized if name in constants} == {onnx.TensorProto.FLOAT}
    assert len([name for name in quantized if name in constants]) == len(placement.weighted)

    name = given.graph.input[0].name
    shape = [value.dim_value or 2 for value in given.graph.input[0].type.tensor_type.shape.dim]
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    answers = []
    for model in (given.SerializeToString(), content):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {name: pixels})[0])
    assert np.array_equal(*answers)


def test_a_model_without_such_weights_stays_the_file_that_it_is(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "model.onnx")
    assert with_float_weights(tmp_path / "model.onnx") is None


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BadInput, match=r"model\.onnx: is no ONNX model"):
        with_float_weights(tmp_path / "model.onnx")
