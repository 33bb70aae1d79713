"""A linear classifier on a model's features, for labels that the model was not trained on.

Any image classifier ends in a layer that reads its features. With the digits as data set that layer is
replaced by one fitted on the FP32 model's features, so that accuracy is a real number whatever the model's
own classes are. A quantized model is judged by the same layer on its own features: what they lose is what
quantizing cost.
"""

from __future__ import annotations

from typing import Any

from model_tools.console import BadInput
from model_tools.quantize.graph import WEIGHTED

FOLDS = 5
RIDGE = 0.2  # of the mean squared length of a picture's features


def tap(model: Any) -> str:
    """Makes the features an output of a model (an onnx.ModelProto) too, and returns their name.

    They are what the last Gemm, MatMul or Conv on the way to the output reads. Raises BadInput where there is
    none.
    """
    from onnx import helper, shape_inference

    producers = {name: node for node in model.graph.node for name in node.output}
    tensor = model.graph.output[0].name
    while (node := producers.get(tensor)) is not None:
        tensor = node.input[0]
        if node.op_type in WEIGHTED:
            # TensorRT wants to be told the type of an output, which ONNX Runtime finds out.
            inferred = shape_inference.infer_shapes(model).graph.value_info
            known = [value for value in inferred if value.name == tensor]
            model.graph.output.extend(known or [helper.make_empty_tensor_value_info(tensor)])
            return str(tensor)
        # An addition's computed input is the one that a node made.
        tensor = next((name for name in node.input if name in producers), tensor)
    raise BadInput(
        "model.onnx: has no last layer with weights, so no features to classify digits by; give --dataset"
        " with pictures of the model's own classes"
    )


def flat(features: Any) -> Any:
    """float32 [n, features]; positions are averaged where the last layer is a convolution."""
    import numpy as np

    values = np.asarray(features, np.float32)
    return values.mean(axis=tuple(range(2, values.ndim))) if values.ndim > 2 else values


def cross_fitted(reference: Any, features: Any, labels: Any) -> Any:
    """Scores [n, classes] of `features` by classifiers fitted on `reference`, both [n, d], for the same n
    pictures.

    Ridge regression to one column a class, in FOLDS parts: a picture is judged by a classifier that has not
    seen it, neither in FP32 nor quantized. Features are standardised by the reference's deviation, and each
    model's by its own mean over the pictures that the classifier is fitted on: what quantizing shifts in the
    mean, `quantize` takes into the bias of the layer that is replaced here.
    """
    import numpy as np

    targets = np.eye(int(labels.max()) + 1)[labels]
    scores = np.empty(targets.shape)
    part = np.arange(len(labels)) % FOLDS
    for fold in range(FOLDS):
        fit, judged = part != fold, part == fold
        mean, deviation = reference[fit].mean(axis=0), reference[fit].std(axis=0)
        # A feature that hardly changes must not be blown up to noise.
        scale = deviation + 1e-2 * deviation.mean() + 1e-12
        known = ((reference[fit] - mean) / scale).astype(np.float64)
        kernel = known @ known.T
        ridge = RIDGE * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
        centre = targets[fit].mean(axis=0)
        weights = known.T @ np.linalg.solve(kernel + ridge, targets[fit] - centre)
        scores[judged] = ((features[judged] - features[fit].mean(axis=0)) / scale) @ weights + centre
    return scores
