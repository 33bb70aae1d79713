"""What TensorRT 8.6 needs otherwise in an ONNX file than its successors."""

from __future__ import annotations

from pathlib import Path

from model_tools.console import BadInput


def with_float_weights(model: Path) -> bytes | None:
    """The model with its INT8 weights as FP32 in front of a QuantizeLinear; None where it has none.

    8.6 quantizes constants itself and takes none that are INT8 ("weights.type() != DataType::kINT8"). The
    values are those that the model holds, so quantizing them gives the same integers. Raises BadInput for
    what is no ONNX model.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise BadInput(
            "--runtime: TensorRT 8 needs onnx too for INT8: pip install 'inference-system[quantize]'"
        ) from error
    import numpy as np

    try:
        content = onnx.load(str(model))
    except Exception as error:  # protobuf and onnx raise types of their own
        raise BadInput(f"{model}: is no ONNX model ({type(error).__name__})") from error
    constants = {value.name: value for value in content.graph.initializer}
    floats: set[str] = set()
    nodes = []
    for node in content.graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if stored is not None:
            scale = numpy_helper.to_array(constants[node.input[1]])
            axis = {each.name: each.i for each in node.attribute}.get("axis", 1) if scale.ndim else None
            if stored.name not in floats:
                values = numpy_helper.to_array(stored).astype(np.float32)
                shape = [1 if place != axis else -1 for place in range(values.ndim)]
                stored.CopyFrom(numpy_helper.from_array(values * scale.reshape(shape), stored.name))
                floats.add(stored.name)
            quantized = f"{node.output[0]}/quantized"
            attributes = {} if axis is None else {"axis": axis}
            inputs = [stored.name, *list(node.input)[1:]]
            nodes.append(helper.make_node("QuantizeLinear", inputs, [quantized], **attributes))
            node.input[0] = quantized
        nodes.append(node)
    if not floats:
        return None
    del content.graph.node[:]
    content.graph.node.extend(nodes)
    return bytes(content.SerializeToString())
