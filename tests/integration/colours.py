"""A model so small that tests measure what is around it: pictures of 64x64 pixels in, 10 classes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_tools.values import Values

MODEL = "colours"
PICTURE = (64, 64, 3)


def onnx_model(seed: int = 0) -> bytes:
    """ONNX: the mean colour of a picture, a dense layer, a softmax."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["colour"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes, MODEL,
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", *PICTURE])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array((rng.normal(size=(3, 10)) / 50).astype(np.float32), "weights")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def repository(folder: Path, values: Values, **changes: Any) -> Path:
    """A model repository of MODEL in the folder; values are `model.*`, of which changes replace some."""
    from model_tools.config import ModelConfig
    from model_tools.values import merge

    own = {
        "name": MODEL,
        "input": {"name": "image", "dataType": "UINT8", "shape": list(PICTURE)},
        "output": {"name": "probabilities", "dataType": "FP32", "shape": [10]},
        "warmup": {"data": "random"},
    }
    config = ModelConfig.from_values(merge(values, merge(own, changes)))
    version = folder / MODEL / str(config.version)
    version.mkdir(parents=True)
    (version / config.filename).write_bytes(onnx_model())
    (folder / MODEL / "config.pbtxt").write_text(config.to_text())
    return folder


def write_model(folder: Path, seed: int = 0) -> Path:
    """A model directory as `model-tools export` writes it."""
    import numpy as np

    from model_tools import bundle
    from model_tools.pictures import pictures

    folder.mkdir(parents=True)
    (folder / bundle.MODEL).write_bytes(onnx_model(seed))
    metadata = {
        "input": {"name": "image", "data_type": "UINT8", "shape": list(PICTURE)},
        "output": {"name": "probabilities", "data_type": "FP32", "shape": [10]},
    }
    bundle.write(folder, metadata, pictures(1, *PICTURE), np.zeros((1, 10), np.float32))
    return folder
