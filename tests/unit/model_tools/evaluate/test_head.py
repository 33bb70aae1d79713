"""Accuracy is counted as it is defined, and a classifier on features judges what it has not seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from networks import Builder, residual

from model_tools import files
from model_tools.console import BadInput
from model_tools.evaluate import command, runtimes
from model_tools.evaluate.command import top
from model_tools.evaluate.head import cross_fitted, flat, tap

SCORES = nps.arrays(np.float64, (7, 6), elements=st.integers(0, 4).map(float))


@given(SCORES, st.lists(st.integers(0, 5), min_size=7, max_size=7), st.integers(1, 6))
def test_top_is_what_sorting_gives(scores: Any, labels: list[int], count: int) -> None:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    expected = np.mean([label in row for label, row in zip(labels, best, strict=True)]) * 100
    assert top(scores, np.array(labels), count) == pytest.approx(expected)


def clusters(deviation: float, count: int = 200) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    labels = np.arange(count) % 4
    return random.normal(size=(4, 12))[labels] + random.normal(size=(count, 12)) * deviation, labels


def test_features_that_tell_classes_apart_are_classified() -> None:
    features, labels = clusters(0.2)
    assert top(cross_fitted(features, features, labels), labels, 1) == 100


def test_labels_that_features_know_nothing_of_are_not_learnt() -> None:
    """A classifier that had seen the pictures it judges would know their labels."""
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(200, 400)), random.integers(0, 4, 200)
    assert top(cross_fitted(features, features, labels), labels, 1) < 45


def test_features_that_lost_something_cost_accuracy() -> None:
    features, labels = clusters(0.2)
    damaged = features + np.random.default_rng(1).normal(size=features.shape) * 3
    assert top(cross_fitted(features, damaged, labels), labels, 1) < 90


def test_features_are_what_the_last_layer_reads() -> None:
    model = residual()
    name = tap(model)
    (last,) = (node for node in model.graph.node if node.op_type == "MatMul")
    assert name == last.input[0]
    assert [value.name for value in model.graph.output] == ["probabilities", name]
    # TensorRT refuses an output without one.
    assert model.graph.output[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_a_convolution_as_last_layer_gives_means_over_positions() -> None:
    build = Builder()
    inner = build.node("Relu", build.conv(build.pixels(), 3, 8, 3))
    pooled = build.node("GlobalAveragePool", build.conv(inner, 8, 4))
    model = build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), 4)
    assert tap(model) == inner
    assert flat(np.arange(24).reshape(2, 3, 2, 2)).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]


def test_a_model_without_a_last_layer_needs_a_data_set() -> None:
    build = Builder()
    pooled = build.node("GlobalAveragePool", build.pixels())
    model = build.model(build.node("Squeeze", pooled, build.constant([2, 3], "int64")), 3)
    with pytest.raises(BadInput, match="give --dataset"):
        tap(onnx.ModelProto.FromString(model.SerializeToString()))


def test_answers_are_kept_for_the_release_of_the_runtime_that_gave_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys: list[str] = []

    class Asked(Exception):
        pass

    def cached(kind: str, key: str, build: Any) -> None:
        keys.append(key)
        raise Asked

    monkeypatch.setattr(files, "cached", cached)
    subject = SimpleNamespace(bundle=SimpleNamespace(metadata={"digest": "sha256:1"}), runtime="tensorrt")
    for version in ("8.6.1", "10.6.0", "10.6.0"):
        monkeypatch.setattr(runtimes, "version", lambda runtime, version=version: version)
        with pytest.raises(Asked):
            command._reference_answers(subject, "digits", 40, 0, None)
    assert keys[0] != keys[1] == keys[2]


def test_the_release_of_a_runtime_is_the_installed_one() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert runtimes.version("onnxruntime") == onnxruntime.__version__
