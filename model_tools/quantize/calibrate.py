"""Ranges of a model's tensors on real pictures: cached, and taken up where a run was interrupted.

The cache's entry is named by what the histograms follow from: the model's graph and weights, the tensors, and
the prepared pixels themselves, so that a change in how pictures are prepared is another calibration. All
methods read the same histograms; going from one to another costs nothing.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_tools.console import BadInput
from model_tools.files import cache_folder
from model_tools.quantize.graph import Graph
from model_tools.quantize.histogram import Histograms

BATCH = 8  # pictures an inference: all the tensors of a batch are in memory at once
CHECKPOINT = 4  # batches between two states on disk
FEWEST = 32  # pictures: fewer say little about the tails that calibration is about
REVISION = 1  # changes when the same pictures would give other histograms
STATE = "histograms.npz"


def pixels_of(source: str, shape: tuple[int, ...], limit: int) -> Any:
    """The pictures to calibrate with, uint8 [n, height, width, channels].

    Raises BadInput for what can't be used, and for too few of them.
    """
    import numpy as np

    from model_tools.datasets import batches

    parts = [batch.pixels for batch in batches(source, shape, 64, limit, "--calibration")]
    pixels = np.concatenate(parts) if parts else np.empty((0, *shape), np.uint8)
    if len(pixels) < FEWEST:
        raise BadInput(
            f"--calibration: {source}: holds {len(pixels)} pictures, and fewer than {FEWEST} say too little"
            " about the values that a model meets; some hundreds are usual"
        )
    return pixels


def digest_of(pixels: Any) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def histograms(
    model: bytes,
    tensors: tuple[str, ...],
    pixels: Any,
    input_type: str,
    advance: Callable[[int], None] = lambda done: None,
) -> Histograms:
    """Distributions of `tensors` over all pictures, out of the cache where they were found before.

    model: the ONNX file's bytes. pixels: uint8 [n, height, width, channels], given to the model's one input
    as `input_type`. advance: called with the number of pictures that are done, those of an earlier run
    included.
    """
    key = hashlib.sha256()
    for part in (model, "\0".join(tensors).encode(), pixels.tobytes(), str(REVISION).encode()):
        key.update(hashlib.sha256(part).digest())
    state = cache_folder() / "calibration" / key.hexdigest()[:32] / STATE
    found = _resumed(state, tensors)
    advance(found.pictures)
    if found.pictures == len(pixels):
        return found
    state.parent.mkdir(parents=True, exist_ok=True)
    run = _session(model, tensors)
    for number, start in enumerate(range(found.pictures, len(pixels), BATCH), start=1):
        part = pixels[start : start + BATCH]
        for index, values in enumerate(run(part.astype(input_type))):
            found.add(index, values)
        found.pictures += len(part)
        advance(found.pictures)
        if number % CHECKPOINT == 0 or found.pictures == len(pixels):
            found.save(state)
    return found


def _resumed(state: Path, tensors: tuple[str, ...]) -> Histograms:
    """The state that an earlier run left, or an empty one; a damaged one counts as none."""
    try:
        found = Histograms.load(state)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return Histograms.empty(tensors)
    return found if found.tensors == tensors else Histograms.empty(tensors)


def _session(model: bytes, tensors: tuple[str, ...]) -> Callable[[Any], list[Any]]:
    """Runs a model on one batch and gives the values of its tensors."""
    import onnx
    import onnxruntime

    proto = onnx.load_from_string(model)
    own = {value.name: value for value in (*proto.graph.input, *proto.graph.output)}
    for name in tensors:
        if name not in own:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = session.get_inputs()[0].name
    asked = [name for name in tensors if name != given]

    def run(batch: Any) -> list[Any]:
        values = dict(zip(asked, session.run(asked, {given: batch}), strict=True))
        return [batch if name == given else values[name] for name in tensors]

    return run


def float_tensors(graph: Graph) -> tuple[str, ...]:
    """Every FP32 tensor that the graph computes, in order: an engine with implicit INT8 needs all ranges."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(graph.model, data_prop=True).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)
    }
    made = [name for node in graph.nodes for name in node.output]
    return tuple(name for name in made if kinds.get(name) == onnx.TensorProto.FLOAT)
