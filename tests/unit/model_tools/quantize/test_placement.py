"""Quantize nodes stand where TensorRT fuses whole residual blocks, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from networks import Builder, residual

from model_tools.console import BadInput
from model_tools.quantize.graph import Graph, simplify
from model_tools.quantize.placement import place


def placed(model: Any, *excluded: str) -> tuple[Graph, set[tuple[str, int]]]:
    """The simplified graph, and (name of the node, index of its input) that read a quantized tensor."""
    graph = Graph(model)
    simplify(graph)
    edges = place(graph, excluded).edges
    names = [node.name for node in graph.nodes]
    return graph, {(names[node], index) for places in edges.values() for node, index in places}


def test_a_residual_add_has_its_skip_quantized_and_its_convolution_bare() -> None:
    graph, edges = placed(residual())
    adds = [node for node in graph.nodes if node.op_type == "Add" and len(graph.activations(node)) == 2]
    assert len(adds) == 4
    for add in adds:
        (skip,) = (index for index in (0, 1) if (add.name, index) in edges)
        fused = graph.producer(add.input[1 - skip])
        assert fused.op_type == "Conv"
        assert graph.consumers(fused.output[0]) == [add]
        # Its own input and what comes of the Add are quantized too: the block is INT8 from end to end.
        assert (fused.name, 0) in edges
        (relu,) = graph.consumers(add.output[0])
        readers = graph.consumers(relu.output[0])
        assert any((reader.name, list(reader.input).index(relu.output[0])) in edges for reader in readers)


def test_of_two_convolutions_the_deeper_ends_in_the_add() -> None:
    """The skip's convolution has the other's whole branch beside it."""
    graph, edges = placed(residual())
    for add in graph.nodes:
        if add.op_type != "Add" or len(graph.activations(add)) != 2:
            continue
        (skip,) = (index for index in (0, 1) if (add.name, index) in edges)
        producer = graph.producer(add.input[1 - skip])
        # The main branch's last convolution reads the activation of the one before.
        before = graph.producer(producer.input[0])
        assert before.op_type == "Relu"
        assert len(graph.consumers(before.output[0])) == 1


def test_every_layer_with_weights_has_its_input_quantized_the_last_too() -> None:
    graph, edges = placed(residual())
    weighted = [node for node in graph.nodes if node.op_type in ("Conv", "Gemm")]
    assert {node.op_type for node in weighted} == {"Conv", "Gemm"}
    assert all((node.name, 0) in edges for node in weighted)


def test_pools_and_activations_are_not_cut_from_their_convolutions() -> None:
    graph, edges = placed(residual())
    kinds = {node.name: node.op_type for node in graph.nodes}
    assert {kinds[name] for name, _ in edges} == {"Conv", "Gemm", "Add", "GlobalAveragePool"}
    tensors = {graph.nodes[0].name}
    for node in graph.nodes:
        if node.op_type == "MaxPool":
            tensors = {node.output[0]}
            assert all((reader.name, 0) in edges for reader in graph.consumers(node.output[0]))
    assert tensors


def test_an_add_without_a_convolution_has_both_inputs_quantized() -> None:
    build = Builder()
    tensor = build.node("Relu", build.conv(build.pixels(), 3, 8, 3))
    other = build.node("Relu", build.conv(tensor, 8, 8, 3))
    added = build.node("Add", tensor, other)
    pooled = build.node("GlobalAveragePool", build.conv(added, 8, 8))
    model = build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), 8)
    _, edges = placed(model)
    assert {(added, 0), (added, 1)} <= edges


def test_a_bias_is_no_residual() -> None:
    build = Builder()
    tensor = build.node("Add", build.conv(build.pixels(), 3, 8, 3), build.constant([[[[1.0]]]]))
    pooled = build.node("GlobalAveragePool", tensor)
    model = build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), 8)
    _, edges = placed(model)
    assert not any(name.startswith("add") and name != "global" for name, _ in edges)


def test_excluded_nodes_stay_as_they_are() -> None:
    graph, everything = placed(residual())
    first = next(node.name for node in graph.nodes if node.op_type == "Conv")
    _, edges = placed(residual(), first, "Gemm")
    assert {name for name, _ in everything - edges} >= {first}
    assert not any(name.startswith("matmul") for name, _ in edges)
    with pytest.raises(BadInput, match="--exclude: Cnov is neither"):
        placed(residual(), "Cnov")


def test_a_model_without_weights_is_refused() -> None:
    build = Builder()
    pooled = build.node("GlobalAveragePool", build.pixels())
    model = build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), 3)
    with pytest.raises(BadInput, match="has no Conv, Gemm or MatMul with constant weights"):
        placed(model)
