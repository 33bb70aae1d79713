"""Which tensors are quantized, so that TensorRT runs whole residual blocks in INT8.

The rules are those of NVIDIA's guides to explicit quantization and of what TensorRT's kernels can do:

- The inputs of Conv, Gemm and MatMul with constant weights are quantized, the last layer's too.
- A kernel can compute conv + bias + residual add + activation on INT8 and write INT8. So of a residual Add
  the skip input is quantized, and the other one goes from its Conv straight into the Add. Quantizing that as
  well ends the kernel before the Add, which then runs alone and reads both its inputs from memory.
- An Add that no convolution ends in has both inputs quantized.
- Average pooling has its input quantized: TensorRT moves the next layer's quantization up to it.
- MaxPool gets nothing of its own. Its output is quantized where the next layer reads it, and TensorRT moves
  that in front of it, for rounding and maximum commute: the convolution before it writes INT8, the pool reads
  INT8, with one scale. The same holds for Transpose, Reshape, Squeeze and Concat.
- No Q/DQ stands between a Conv and its activation, nor on a bias.
- A tensor has one Q/DQ pair and one scale, however many layers read it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from model_tools.console import BadInput
from model_tools.quantize.graph import WEIGHTED, Graph

AVERAGE_POOLS = ("AveragePool", "GlobalAveragePool")


@dataclass(frozen=True)
class Placement:
    """edges: (index of the node, index of its input) that read the quantized tensor, by tensor, in order.

    weighted: indices of the nodes whose weights are quantized.
    """

    edges: dict[str, tuple[tuple[int, int], ...]]
    weighted: tuple[int, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(self.edges)


def place(graph: Graph, excluded: Collection[str] = ()) -> Placement:
    """Where Q/DQ pairs go. `excluded`: names or operators of nodes that stay in floating point.

    Raises BadInput where nothing could be quantized, and for an exclusion that fits no node.
    """
    nodes = graph.nodes
    for name in excluded:
        if not any(name in (node.name, node.op_type) for node in nodes):
            raise BadInput(f"--exclude: {name} is neither the name nor the operator of a node of this model")
    depths = _depths(graph)
    edges: dict[str, list[tuple[int, int]]] = {}
    weighted = []
    for index, node in enumerate(nodes):
        if node.name in excluded or node.op_type in excluded:
            continue
        inputs: list[int] = []
        if has_weights(graph, node):
            weighted.append(index)
            inputs = [0]
        elif node.op_type == "Add" and len(graph.activations(node)) == 2:
            fused = fused_input(graph, node, depths)
            inputs = [one for one in (0, 1) if one != fused]
        elif node.op_type in AVERAGE_POOLS:
            inputs = [0]
        for one in inputs:
            edges.setdefault(node.input[one], []).append((index, one))
    if not weighted:
        raise BadInput(
            f"model.onnx: has no {', '.join(WEIGHTED[:-1])} or {WEIGHTED[-1]} with constant weights, so there"
            " is nothing that INT8 would make faster"
        )
    return Placement({tensor: tuple(places) for tensor, places in edges.items()}, tuple(weighted))


def has_weights(graph: Graph, node: Any) -> bool:
    """Whether a node multiplies what is computed with weights that are constant."""
    return (
        node.op_type in WEIGHTED
        and node.input[0] not in graph.constants
        and node.input[1] in graph.constants
        and graph.constants[node.input[1]].ndim >= 2
    )


def fused_input(graph: Graph, add: Any, depths: dict[str, int]) -> int | None:
    """The input of an Add that stays as it is: a convolution's that only the Add reads, the deeper of two."""
    candidates = []
    for index, tensor in enumerate(add.input):
        node = graph.producer(tensor)
        if node is not None and has_weights(graph, node) and graph.only_reader(tensor) is not None:
            candidates.append((depths[tensor], index))
    return max(candidates)[1] if candidates else None


def _depths(graph: Graph) -> dict[str, int]:
    """Nodes on the longest way to each tensor."""
    depths: dict[str, int] = {}
    for node in graph.nodes:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        for name in node.output:
            depths[name] = depth
    return depths
