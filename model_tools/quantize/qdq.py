"""Quantize and dequantize nodes, and weights as 8-bit integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_tools.quantize.graph import Graph, attribute
from model_tools.quantize.placement import Placement

LEVELS = 127  # symmetric: -127 to 127, so that zero is exact and every sign has as many steps
SMALLEST_SCALE = 2.0**-14  # the smallest normal FP16 number: a scale has to survive being stored as one


def scale_of(largest: Any, half: bool) -> Any:
    """Size of a step for values up to `largest` (an array or number), float32; never zero.

    With `half`, a value that FP16 holds exactly, since that is the type the scale will have.
    """
    import numpy as np

    scale = np.asarray(largest, np.float32) / np.float32(LEVELS)
    if half:
        # Rounded up, so that the largest value stays within the levels.
        rounded = scale.astype(np.float16)
        up = np.where(rounded < scale, np.nextafter(rounded, np.float16(np.inf)), rounded)
        scale = np.maximum(up.astype(np.float32), np.float32(SMALLEST_SCALE))
    # What is always zero may have any scale.
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)


def quantize_weights(weights: Any, axis: int, half: bool) -> tuple[Any, Any]:
    """(int8 weights of the same shape, float32 scales [channels]): one scale for each index of `axis`."""
    import numpy as np

    others = tuple(one for one in range(weights.ndim) if one != axis)
    scales = scale_of(np.abs(weights).max(axis=others), half)
    shape = [1] * weights.ndim
    shape[axis] = -1
    steps = np.rint(weights.astype(np.float32) / scales.reshape(shape))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), scales


def output_axis(node: Any, rank: int) -> int:
    """The axis of a node's weights that counts its outputs."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return rank - 1


def insert(graph: Graph, placement: Placement, ranges: Mapping[str, float], half: bool) -> None:
    """Puts Q/DQ pairs where `placement` says. ranges: largest absolute value that each tensor keeps."""
    import numpy as np
    from onnx import helper

    nodes = graph.nodes
    zero = graph.constant("zero_point", np.int8(0))
    pairs: dict[str, list[Any]] = {}
    for tensor, edges in placement.edges.items():
        scale = graph.constant(f"{tensor}/scale", scale_of(ranges[tensor], half))
        quantized, restored = f"{tensor}/quantized", f"{tensor}/dequantized"
        pairs[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [quantized], f"{tensor}/Q"),
            helper.make_node("DequantizeLinear", [quantized, scale, zero], [restored], f"{tensor}/DQ"),
        ]
        for node, index in edges:
            nodes[node].input[index] = restored
    weights: dict[int, Any] = {}
    for index in placement.weighted:
        weights[index] = _dequantized_weights(graph, nodes[index], half)
    ordered: list[Any] = []
    for value in graph.model.graph.input:
        ordered += pairs.get(value.name, [])
    for index, node in enumerate(nodes):
        if index in weights:
            ordered.append(weights[index])
        ordered.append(node)
        for name in node.output:
            ordered += pairs.get(name, [])
    graph.replace_nodes(ordered)


def _dequantized_weights(graph: Graph, node: Any, half: bool) -> Any:
    """The DequantizeLinear that a node reads its weights from now on."""
    import numpy as np
    from onnx import helper

    name = node.input[1]
    axis = output_axis(node, graph.constants[name].ndim)
    values, scales = quantize_weights(graph.constants[name], axis, half)
    # Each node has weights of its own, even where the model shares them: readers may differ in their axis.
    stored = graph.constant(f"{name}/int8", values)
    inputs = [stored, graph.constant(f"{stored}/scale", scales)]
    inputs.append(graph.constant(f"{stored}/zero", np.zeros(len(scales), np.int8)))
    restored = graph.unused_name(f"{stored}/dequantized")
    node.input[1] = restored
    return helper.make_node("DequantizeLinear", inputs, [restored], f"{stored}/DQ", axis=axis)
