"""A typed FP16 graph: every tensor that may be FP16 is, and the types stand in the graph itself.

TensorRT takes precision from the graph's types in its strongly typed mode, the only one of TensorRT 11. What
the graph takes and gives keeps its type. Softmax stays FP32: it costs nothing, and FP16 probabilities tie. So
does whatever ONNX defines for FP32 alone, such as the scales of a Resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model_tools.console import BadInput
from model_tools.quantize.graph import Graph, attribute, set_attribute

OPSET = 19  # the first whose QuantizeLinear and DequantizeLinear take FP16 scales
KEPT = ("Softmax", "LogSoftmax")
LARGEST = 65504.0


@dataclass(frozen=True)
class Saturation:
    """Constants that FP16 could not hold: how many values were cut to +-65504, and the largest there was."""

    values: int
    largest: float


def to_half(graph: Graph) -> Saturation:
    """Changes the graph to FP16 in place, and to opset 19 with it. Raises BadInput for mixed types."""
    import numpy as np
    from onnx import TensorProto, helper

    graph.raise_opset(OPSET)
    types = {value.name: value.type.tensor_type.elem_type for value in graph.model.graph.input}
    types |= {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in graph.constants.items()}
    for name, kind in types.items():
        if kind in (TensorProto.DOUBLE, TensorProto.BFLOAT16):
            raise BadInput(f"model.onnx: {name} is not FP32; FP16 is made of FP32 models")
    count, largest = 0, 0.0
    halves: dict[str, str] = {}  # FP32 tensor or constant to its FP16 form
    floats: dict[str, str] = {}  # FP16 tensor to its FP32 form
    ordered: list[Any] = []

    def half_of(name: str) -> str:
        nonlocal count, largest
        if name not in halves:
            if name in graph.constants:
                array = graph.constants[name]
                beyond = np.abs(array) > LARGEST
                count += int(beyond.sum())
                largest = max(largest, float(np.abs(array).max(initial=0)))
                cut = np.clip(array, -LARGEST, LARGEST).astype(np.float16)
                halves[name] = graph.constant(f"{name}/half", cut)
            else:
                halves[name] = graph.unused_name(f"{name}/half")
                ordered.append(helper.make_node("Cast", [name], [halves[name]], to=TensorProto.FLOAT16))
            types[halves[name]] = TensorProto.FLOAT16
        return halves[name]

    def float_of(name: str) -> str:
        if name not in floats:
            floats[name] = graph.unused_name(f"{name}/float")
            types[floats[name]] = TensorProto.FLOAT
            ordered.append(helper.make_node("Cast", [name], [floats[name]], to=TensorProto.FLOAT))
        return floats[name]

    for node in graph.nodes:
        for index, name in enumerate(node.input):
            if not name:
                continue
            takes_half = _takes_half(node, index)
            if types.get(name) == TensorProto.FLOAT and takes_half:
                node.input[index] = half_of(name)
            elif types.get(name) == TensorProto.FLOAT16 and not takes_half:
                node.input[index] = float_of(name)
        if node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT:
            set_attribute(node, "to", TensorProto.FLOAT16)
        ordered.append(node)
        types |= _output_types(node, types)
    for value in graph.model.graph.output:
        name = value.name
        if types.get(name) == TensorProto.FLOAT16 and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            inner = graph.unused_name(f"{name}/half")
            for node in ordered:
                for names in (node.input, node.output):
                    for index, one in enumerate(names):
                        if one == name:
                            names[index] = inner
            ordered.append(helper.make_node("Cast", [inner], [name], to=TensorProto.FLOAT))
    graph.replace_nodes(ordered)
    return Saturation(count, largest)


def _takes_half(node: Any, index: int) -> bool:
    """Whether ONNX lets this input of this operator be FP16, and we want it."""
    from onnx import defs

    if node.op_type in KEPT:
        return False
    schema = defs.get_schema(node.op_type, OPSET, node.domain)
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return "tensor(float16)" in formal.types


def _output_types(node: Any, types: dict[str, int]) -> dict[str, int]:
    """Element types of a node's outputs: what its schema binds them to, given the inputs' types."""
    from onnx import TensorProto, defs

    if node.op_type == "Cast":
        return {node.output[0]: attribute(node, "to")}
    if node.op_type == "DequantizeLinear":
        return {node.output[0]: types[node.input[1]]}
    schema = defs.get_schema(node.op_type, OPSET, node.domain)
    bound = {}
    for index, name in enumerate(node.input):
        if name in types:
            bound[schema.inputs[min(index, len(schema.inputs) - 1)].type_str] = types[name]
    found = {}
    for index, name in enumerate(node.output):
        formal = schema.outputs[min(index, len(schema.outputs) - 1)]
        kind = bound.get(formal.type_str)
        if kind is None and formal.type_str.startswith("tensor("):
            word = formal.type_str.removeprefix("tensor(").removesuffix(")").upper()
            kind = getattr(TensorProto, word, None)
        if kind is not None:
            found[name] = kind
    return found
