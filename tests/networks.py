"""A small residual network as ONNX, with all that stands in the way of INT8 in a real one's export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 32


class Builder:
    """Adds nodes to a graph one after the other; each method returns the name of the tensor that it makes."""

    def __init__(self, seed: int = 0) -> None:
        import numpy as np

        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, values: Any, kind: str = "float32") -> str:
        import numpy as np
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def conv(
        self, tensor: str, given: int, made: int, kernel: int = 1, stride: int = 1, gain: float = 1.0
    ) -> str:
        weights = (
            self.random.normal(size=(made, given, kernel, kernel)) * gain * (2 / (given * kernel**2)) ** 0.5
        )
        bias = self.random.normal(size=made) * 0.1
        return self.node(
            "Conv", tensor, self.constant(weights), self.constant(bias), kernel_shape=[kernel] * 2,
            strides=[stride] * 2, pads=[kernel // 2] * 4,
        )  # fmt: skip

    def pixels(self) -> str:
        """Preprocessing as `export` writes it: RGB to BGR by slices, minus means, to NCHW."""
        fp32 = self.node("Cast", "image", to=1)
        channels = []
        for channel in (2, 1, 0):
            limits = [self.constant([value], "int64") for value in (channel, channel + 1, 3)]
            channels.append(self.node("Slice", fp32, *limits))
        means = self.constant([[[[-103.939, -116.779, -123.68]]]])
        return self.node("Transpose", self.node("Add", self.node("Concat", *channels, axis=3), means),
                         perm=[0, 3, 1, 2])  # fmt: skip

    def block(self, tensor: str, given: int, made: int, stride: int = 1) -> str:
        """A bottleneck block, close to its skip, which has a convolution where the shape changes."""
        skip = tensor if given == made and stride == 1 else self.conv(tensor, given, made, stride=stride)
        inner = self.node("Relu", self.conv(tensor, given, made // 2, stride=stride))
        inner = self.node("Relu", self.conv(inner, made // 2, made // 2, 3))
        return self.node("Relu", self.node("Add", skip, self.conv(inner, made // 2, made, gain=0.3)))

    def model(self, output: str, classes: int, side: int = SIDE) -> Any:
        """The model from `image` uint8 [N, side, side, 3] to `probabilities` [N, classes]."""
        import onnx
        from onnx import helper

        self.nodes.append(helper.make_node("Softmax", [output], ["probabilities"], "softmax", axis=-1))
        graph = helper.make_graph(
            self.nodes, "network",
            [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", side, side, 3])],
            [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", classes])],
            self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def residual(seed: int = 0, width: int = 16, classes: int = 10) -> Any:
    """ResNet-50 in small: every kind of node and of block that it has.

    Of `width` 64, its random features tell digits apart.
    """
    build = Builder(seed)
    tensor = build.node("Relu", build.conv(build.pixels(), 3, width, 3, 2))
    pads = build.constant([0, 0, 1, 1, 0, 0, 1, 1], "int64")
    tensor = build.node("MaxPool", build.node("Pad", tensor, pads), kernel_shape=[3, 3], strides=[2, 2])
    for given, made, stride in ((1, 2, 1), (2, 2, 1), (2, 4, 2), (4, 4, 1)):
        tensor = build.block(tensor, given * width, made * width, stride)
    tensor = build.node("Squeeze", build.node("GlobalAveragePool", tensor), build.constant([2, 3], "int64"))
    weights = build.constant(build.random.normal(size=(4 * width, classes)) / width**0.5)
    bias = build.constant(build.random.normal(size=classes))
    return build.model(build.node("Add", build.node("MatMul", tensor, weights), bias), classes)


def write_small(folder: Path) -> None:
    """Fills an empty folder with the small residual network as `export` would leave it, named `small`.

    For what does not depend on a model's size.
    """
    import onnxruntime

    from model_tools import bundle
    from model_tools.pictures import pictures

    (folder / bundle.MODEL).write_bytes(residual(seed=3, width=64).SerializeToString())
    pixels = pictures(8, SIDE, SIDE)
    session = onnxruntime.InferenceSession(folder / bundle.MODEL)
    metadata = {
        "name": "small",
        "precision": "fp32",
        "input": {"name": "image", "data_type": "UINT8", "shape": [SIDE, SIDE, 3]},
        "output": {"name": "probabilities", "data_type": "FP32", "shape": [10]},
    }
    bundle.write(folder, metadata, pixels, session.run(None, {"image": pixels})[0])
