"""Biases that make up for what rounding and cutting shift in the mean.

Quantizing moves the mean of a layer's outputs, channel by channel: rounding errors of weights do not cancel,
and cutting takes from one side only. All later layers see that shift in every picture. It is measured and
taken into the biases, which stay in floating point and cost nothing: M. Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", 2019, section 4.2, here with pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model_tools.quantize.graph import WEIGHTED, Graph

PICTURES = 64  # a mean over all positions of so many is stable; all their tensors are in memory at once


def biased(graph: Graph) -> list[Any]:
    """Nodes with weights and a constant bias of their own, in order."""
    return [
        node
        for node in graph.nodes
        if node.op_type in WEIGHTED and len(node.input) > 2 and node.input[2] in graph.constants
    ]


def channel_means(values: Any) -> Any:
    """Mean over pictures and positions of [N, channels, ...], float64 [channels]."""
    import numpy as np

    return values.mean(axis=tuple(axis for axis in range(values.ndim) if axis != 1), dtype=np.float64)


def means(
    graph: Graph, pixels: Any, input_type: str, advance: Callable[[int], None] = lambda done: None
) -> list[Any]:
    """Mean of each channel of what the `biased` nodes make, as the graph is. Arguments as of `correct`."""
    found: list[Any] = []

    def keep(node: Any, values: Any) -> Any:
        found.append(channel_means(values))
        advance(len(found))
        return values

    _walk(graph, pixels, input_type, keep)
    return found


def correct(
    graph: Graph,
    expected: list[Any],
    pixels: Any,
    input_type: str,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Moves the biases of a quantized graph in place, so that its channels get the means of the FP32 model.

    expected: those means, by `means`. pixels: uint8 [n, height, width, channels]. advance: called with the
    number of layers that are done. One layer after the other, each on what the corrected ones before it make:
    correcting all at once would correct in each layer what those before it have corrected already.
    """
    done = 0

    def move(node: Any, values: Any) -> Any:
        nonlocal done
        bias = graph.constants[node.input[2]]
        shift = (expected[done] - channel_means(values)).astype(bias.dtype)
        node.input[2] = graph.constant(f"{node.output[0]}/bias", bias + shift)
        done += 1
        advance(done)
        return values + shift.reshape(1, -1, *[1] * (values.ndim - 2))

    _walk(graph, pixels, input_type, move)
    graph.replace_nodes(graph.nodes)


def _walk(graph: Graph, pixels: Any, input_type: str, visit: Callable[[Any, Any], Any]) -> None:
    """Runs a graph from one `biased` node to the next; `visit` gets each with its output and gives
    another."""
    stops = {node.output[0]: node for node in biased(graph)}
    nodes = graph.nodes
    tensors = {graph.model.graph.input[0].name: pixels.astype(input_type)}
    start = 0
    for end, last in enumerate(nodes, start=1):
        if last.output[0] not in stops:
            continue
        later = {name for node in nodes[end:] for name in node.input}
        made = [name for node in nodes[start:end] for name in node.output]
        wanted = [name for name in made if name in later or name in stops]
        tensors |= _run(graph, nodes[start:end], tensors, wanted)
        tensors[last.output[0]] = visit(last, tensors[last.output[0]])
        tensors = {name: values for name, values in tensors.items() if name in later}
        start = end


def _run(graph: Graph, nodes: list[Any], tensors: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """Values of the tensors `wanted` that these nodes make of `tensors`."""
    import onnxruntime
    from onnx import helper, numpy_helper

    read = {name for node in nodes for name in node.input}
    given = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(values.dtype), [None] * values.ndim
        )
        for name, values in tensors.items()
        if name in read
    ]
    constants = [
        numpy_helper.from_array(array, name) for name, array in graph.constants.items() if name in read
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    part = helper.make_model(
        helper.make_graph(nodes, "part", given, outputs, constants),
        opset_imports=graph.model.opset_import,
        ir_version=graph.model.ir_version,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(wanted, {value.name: tensors[value.name] for value in given})
    return dict(zip(wanted, found, strict=True))
