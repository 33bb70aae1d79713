"""An ONNX graph that can be asked who makes and who reads a tensor, and what is folded before quantising."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model_tools.console import BadInput

# Nodes with weights, which integer arithmetic is for: the input and the weights get quantized.
WEIGHTED = ("Conv", "Gemm", "MatMul")
SMALL = 64  # values: constants up to this size may decide shapes, such as axes and pads


class Graph:
    """A model's nodes and constants, and an index of both that follows the changes made through it.

    model: the ModelProto, changed in place. constants: tensor name to its array.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.constants: dict[str, Any] = {}
        self._take_constants()

    @classmethod
    def load(cls, file: Path) -> Graph:
        """Raises BadInput for what is no ONNX model, is quantized, or holds what can't be quantized."""
        import onnx

        try:
            model = onnx.load(str(file))
            onnx.checker.check_model(model)
        except Exception as error:  # protobuf and the checker raise types of their own
            raise BadInput(f"{file}: is no ONNX model ({_first_line(error)})") from error
        for node in model.graph.node:
            if node.domain not in ("", "ai.onnx"):
                raise BadInput(
                    f"{file}: node {node.name} is {node.domain}.{node.op_type}, an operator that ONNX does"
                    " not define; export the model without it"
                )
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise BadInput(
                    f"{file}: node {node.name} ({node.op_type}) holds a graph of its own, which can't be"
                    " quantized; export the model without control flow"
                )
            if node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
                raise BadInput(f"{file}: is quantized already; quantize the FP32 model that it came from")
        return cls(model)

    @property
    def nodes(self) -> list[Any]:
        """In topological order, as ONNX demands."""
        return list(self.model.graph.node)

    @property
    def outputs(self) -> set[str]:
        return {value.name for value in self.model.graph.output}

    def producer(self, tensor: str) -> Any | None:
        """The node that makes a tensor; None for inputs and constants."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[Any]:
        return self._consumers.get(tensor, [])

    def activations(self, node: Any) -> list[str]:
        """Inputs of a node that are computed, not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def only_reader(self, tensor: str) -> Any | None:
        """The one node that reads a tensor which is no output of the graph, or None."""
        readers = self.consumers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def unused_name(self, wish: str) -> str:
        name, number = wish, 0
        taken = self._producers.keys() | self.constants.keys() | self._consumers.keys()
        while name in taken:
            number += 1
            name = f"{wish}_{number}"
        return name

    def constant(self, wish: str, array: Any) -> str:
        """Adds a constant and returns its name."""
        name = self.unused_name(wish)
        self.constants[name] = array
        return name

    def replace_nodes(self, nodes: Iterable[Any]) -> None:
        """Sets the nodes, which have to be in topological order."""
        kept = list(nodes)
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        self._index()

    def raise_opset(self, version: int) -> None:
        """Brings the model to a newer opset. Raises BadInput where ONNX has no conversion for a node."""
        import onnx
        from onnx import helper, numpy_helper

        if all(one.version >= version for one in self.model.opset_import if one.domain in ("", "ai.onnx")):
            return
        # The converter copies the model several times: large constants are only declared to it.
        large = {name: array for name, array in self.constants.items() if array.size > SMALL}
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(
            numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if name not in large
        )
        inputs = len(self.model.graph.input)
        self.model.graph.input.extend(_declaration(name, array) for name, array in large.items())
        try:
            self.model = onnx.version_converter.convert_version(self.model, version)
        except Exception as error:  # the converter raises types of its own
            raise BadInput(
                f"model.onnx: can't be brought to opset {version} ({_first_line(error)})"
            ) from error
        del self.model.graph.input[inputs:]
        self.model.ir_version = max(
            self.model.ir_version, helper.find_min_ir_version_for(self.model.opset_import)
        )
        self._take_constants()
        self.constants |= large

    def remove(self, node: Any) -> None:
        """Removes a node whose first input takes the place of its output."""
        (output,) = node.output
        for reader in self.consumers(output):
            for index, name in enumerate(reader.input):
                if name == output:
                    reader.input[index] = node.input[0]
        self.model.graph.node.remove(node)
        self._index()

    def finished(self) -> Any:
        """The model with the constants that are still read. Raises what onnx.checker finds wrong with it."""
        import onnx
        from onnx import numpy_helper

        graph = self.model.graph
        read = {name for node in graph.node for name in node.input}
        del graph.initializer[:]
        graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in read
        )
        # What was inferred before the change need not hold after it.
        del graph.value_info[:]
        onnx.checker.check_model(self.model, full_check=True)
        onnx.shape_inference.infer_shapes(self.model, check_type=True, strict_mode=True, data_prop=True)
        return self.model

    def _take_constants(self) -> None:
        from onnx import numpy_helper

        for tensor in self.model.graph.initializer:
            self.constants[tensor.name] = numpy_helper.to_array(tensor)
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
                self.model.graph.node.remove(node)
        self._index()

    def _index(self) -> None:
        self._producers: dict[str, Any] = {}
        self._consumers: dict[str, list[Any]] = {}
        for node in self.model.graph.node:
            for name in node.output:
                self._producers[name] = node
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """An attribute's value, or `default` where the node does not state it."""
    from onnx import helper

    for one in node.attribute:
        if one.name == name:
            return helper.get_attribute_value(one)
    return default


def set_attribute(node: Any, name: str, value: Any) -> None:
    from onnx import helper

    for one in list(node.attribute):
        if one.name == name:
            node.attribute.remove(one)
    node.attribute.append(helper.make_attribute(name, value))


def simplify(graph: Graph) -> None:
    """Folds what would stand between a convolution and its neighbours, with the same results.

    TensorRT fuses a convolution, its bias, a residual add and an activation into one INT8 kernel, and lets
    quantization move across pooling; it does not move it across Pad, BatchNormalization or four nodes that
    reverse RGB. Constants of the last layer lie as [outputs, inputs], so that the axis of their scales is 0
    everywhere.
    """
    for fold in (_fold_batch_norm, _fold_channel_order, _fold_pad, _to_gemm):
        while fold(graph):
            pass


def _fold_batch_norm(graph: Graph) -> bool:
    """Conv and BatchNormalization to one Conv: W' = W g/sqrt(v+e), b' = (b - m) g/sqrt(v+e) + beta."""
    import numpy as np

    for node in graph.nodes:
        if node.op_type != "BatchNormalization" or any(
            name not in graph.constants for name in node.input[1:]
        ):
            continue
        conv = graph.producer(node.input[0])
        if conv is None or conv.op_type != "Conv" or conv.input[1] not in graph.constants:
            continue
        if graph.only_reader(conv.output[0]) is None:
            continue
        gain, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in node.input[1:5])
        factor = gain / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        weights = graph.constants[conv.input[1]]
        bias = (
            graph.constants[conv.input[2]] if len(conv.input) > 2 and conv.input[2] else np.zeros(len(gain))
        )
        scaled = (weights * factor.reshape(-1, *[1] * (weights.ndim - 1))).astype(weights.dtype)
        moved = ((bias - mean) * factor + shift).astype(weights.dtype)
        del conv.input[1:]
        conv.input.extend(
            [graph.constant(f"{node.name}/weights", scaled), graph.constant(f"{node.name}/bias", moved)]
        )
        _take_over(graph, conv, node)
        return True
    return False


def _fold_channel_order(graph: Graph) -> bool:
    """Single channels that a Concat puts together in another order: the order goes into the weights.

    keras.applications writes its RGB to BGR so. Between it and the first Conv may stand an addition of
    constants and a Transpose, as in every preprocessing that `export` writes.
    """
    import numpy as np

    for concat in graph.nodes:
        found = _channel_order(graph, concat)
        if found is None:
            continue
        source, order, axis = found
        constants: list[tuple[Any, int]] = []
        tensor, channel_axis = concat.output[0], axis
        reader = graph.only_reader(tensor)
        while reader is not None and reader.op_type in ("Add", "Sub", "Mul", "Div", "Transpose"):
            if reader.op_type == "Transpose":
                channel_axis = list(attribute(reader, "perm")).index(channel_axis)
            else:
                constants.append((reader, channel_axis))
            tensor = reader.output[0]
            reader = graph.only_reader(tensor)
        if (
            reader is None
            or reader.op_type != "Conv"
            or channel_axis != 1
            or attribute(reader, "group", 1) != 1
        ):
            continue
        if reader.input[1] not in graph.constants or reader.input[0] != tensor:
            continue
        plans = []
        for node, where in constants:
            names = [name for name in node.input if name in graph.constants]
            if len(names) != 1:
                break
            values = graph.constants[names[0]]
            place = values.ndim - (4 - where)
            if place < 0 or values.shape[place] == 1:
                plans.append((node, names[0], values))
            else:
                plans.append((node, names[0], np.take(values, np.argsort(order), axis=place)))
        else:
            for node, name, values in plans:
                node.input[list(node.input).index(name)] = graph.constant(f"{name}/ordered", values)
            weights = np.take(graph.constants[reader.input[1]], np.argsort(order), axis=1)
            reader.input[1] = graph.constant(f"{reader.input[1]}/ordered", weights)
            concat.input[0] = source
            graph._index()
            graph.remove(concat)
            _drop_unread(graph)
            return True
    return False


def _channel_order(graph: Graph, concat: Any) -> tuple[str, list[int], int] | None:
    """(tensor, order, axis) where a Concat's output is a tensor's channels in that order, else None."""
    if concat.op_type != "Concat":
        return None
    axis = attribute(concat, "axis")
    order, sources = [], set()
    for name in concat.input:
        part = graph.producer(name)
        if (
            part is None
            or part.op_type != "Slice"
            or any(one not in graph.constants for one in part.input[1:])
        ):
            return None
        values = [graph.constants[one].tolist() for one in part.input[1:]]
        starts, ends = values[0], values[1]
        axes = values[2] if len(values) > 2 else [0]
        if len(starts) != 1 or ends[0] != starts[0] + 1 or axes != [axis]:
            return None
        if len(values) > 3 and values[3] != [1]:
            return None
        order.append(starts[0])
        sources.add(part.input[0])
    if len(sources) != 1 or sorted(order) != list(range(len(order))) or len(order) != 3:
        return None
    return sources.pop(), order, axis


def _fold_pad(graph: Graph) -> bool:
    """Zeros around a picture become the pads of the Conv or MaxPool that reads it.

    A MaxPool pads with minus infinity, which is the same where nothing is below zero: after a Relu or a Clip.
    """
    for node in graph.nodes:
        if node.op_type != "Pad" or attribute(node, "mode", b"constant") != b"constant":
            continue
        pads = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        value = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if pads is None or len(pads) != 8 or (value is not None and float(value) != 0):
            continue
        if any(pads[index] for index in (0, 1, 4, 5)) or min(pads) < 0:
            continue
        reader = graph.only_reader(node.output[0])
        if reader is None or attribute(reader, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            continue
        added = [int(pads[index]) for index in (2, 3, 6, 7)]
        own = list(attribute(reader, "pads", [0, 0, 0, 0]))
        if reader.op_type == "MaxPool":
            kernel = attribute(reader, "kernel_shape")
            # A window of padding alone has no largest value.
            small = all(one < size for one, size in zip(added, (*kernel, *kernel), strict=True))
            if any(own) or not small or not _never_negative(graph, node.input[0]):
                continue
        elif reader.op_type != "Conv" or reader.input[0] != node.output[0]:
            continue
        set_attribute(reader, "auto_pad", "NOTSET")
        set_attribute(reader, "pads", [one + two for one, two in zip(own, added, strict=True)])
        graph.remove(node)
        return True
    return False


def _never_negative(graph: Graph, tensor: str) -> bool:
    node = graph.producer(tensor)
    if node is None:
        return False
    if node.op_type == "Clip":
        low = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        return low is not None and float(low) >= 0
    return node.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Softmax")


def _to_gemm(graph: Graph) -> bool:
    """MatMul with constant weights [K, N] on a tensor [batch, K], and the bias after it, to one Gemm.

    Its weights are stored as [N, K].
    """
    import numpy as np

    for node in graph.nodes:
        if node.op_type != "MatMul" or node.input[1] not in graph.constants:
            continue
        weights = graph.constants[node.input[1]]
        add = graph.only_reader(node.output[0])
        if weights.ndim != 2 or add is None or add.op_type != "Add":
            continue
        names = [name for name in add.input if name in graph.constants]
        if len(names) != 1 or graph.constants[names[0]].shape != (weights.shape[1],):
            continue
        if _rank(graph, node.input[0]) != 2:
            continue
        node.op_type = "Gemm"
        node.input[1] = graph.constant(f"{node.input[1]}/rows", np.ascontiguousarray(weights.T))
        node.input.append(names[0])
        set_attribute(node, "transB", 1)
        _take_over(graph, node, add)
        return True
    return False


def _rank(graph: Graph, tensor: str) -> int | None:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(_with_constants(graph), data_prop=True).graph
    for value in (*inferred.value_info, *inferred.input):
        if value.name == tensor:
            return len(value.type.tensor_type.shape.dim)
    return None


def _with_constants(graph: Graph) -> Any:
    """A copy of the model with the constants that shapes follow from, and none of the large ones."""
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(graph.model)
    del copy.graph.initializer[:]
    read = {name for node in copy.graph.node for name in node.input}
    for name, array in graph.constants.items():
        if name not in read:
            continue
        if array.size <= SMALL:
            copy.graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            copy.graph.input.append(_declaration(name, array))
    return copy


def _declaration(name: str, array: Any) -> Any:
    """A constant as an input of its type and shape, without its values."""
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _take_over(graph: Graph, node: Any, folded: Any) -> None:
    """`node` makes the output of `folded`, the one reader of its own output, which is removed."""
    node.output[0] = folded.output[0]
    graph.model.graph.node.remove(folded)
    graph._index()


def _drop_unread(graph: Graph) -> None:
    """Removes nodes whose outputs nobody reads."""
    while True:
        kept = [
            node
            for node in graph.nodes
            if any(graph.consumers(name) or name in graph.outputs for name in node.output)
        ]
        if len(kept) == len(graph.nodes):
            return
        graph.replace_nodes(kept)
