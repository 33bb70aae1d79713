"""TensorFlow models become ONNX that gives TensorFlow's numbers, or are refused with nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_tools.bundle import Bundle
from model_tools.console import BadInput, CheckFailed
from model_tools.export import difference, export


@pytest.fixture(scope="module")
def saved_model(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as a SavedModel folder."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    stack = [keras.Input((64, 64, 3)), layers.Conv2D(8, 3, 2, activation="relu"), layers.GlobalMaxPooling2D()]
    path = tmp_path_factory.mktemp("models") / "small"
    keras.Sequential([*stack, layers.Dense(10)]).export(path, verbose=False)
    return path


@pytest.mark.parametrize(("form", "input_type"), [("mobilenet", "uint8"), ("saved_model", "fp32")])
def test_another_architecture_is_exported_and_checked(
    request: pytest.FixtureRequest, tmp_path: Path, form: str, input_type: str
) -> None:
    import onnxruntime

    path = request.getfixturevalue(form)
    found = export(tmp_path / "model", model=str(path), preprocessing="tf", input_type=input_type)
    assert found.absolute < 1e-4
    assert found.relative is not None
    assert found.relative < 1e-3
    bundle = Bundle.load(tmp_path / "model")
    assert bundle.metadata["name"] == path.stem
    assert (bundle.input.data_type, bundle.input.shape) == (input_type.upper(), (64, 64, 3))
    images, expected = bundle.reference()
    session = onnxruntime.InferenceSession(bundle.model)
    assert np.abs(session.run(None, {"image": images[:3]})[0] - expected[:3]).max() < 1e-4


def test_the_cast_comes_first_so_that_tensorrt_takes_uint8(bundle: Bundle) -> None:
    import onnx

    graph = onnx.load(bundle.model, load_external_data=False).graph
    (image,) = graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {node.op_type for node in graph.node if image.name in node.input} == {"Cast"}


def test_random_resnet50_tells_pictures_apart(bundle: Bundle) -> None:
    _, expected = bundle.reference()
    assert len(set(expected.argmax(axis=1))) > len(expected) / 2
    assert bundle.metadata["largest_relative_difference"] < 1e-3


def test_a_difference_above_the_tolerance_fails_and_what_was_there_stays(
    saved_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "before").write_text("")
    with pytest.raises(CheckFailed, match=r"ONNX differs from TensorFlow by .* above the tolerance of 1e-12"):
        export(tmp_path / "model", model=str(saved_model), tolerance=1e-12)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert [entry.name for entry in (tmp_path / "model").iterdir()] == ["before"]


def test_the_comparison_sees_answers_that_belong_to_other_pictures(bundle: Bundle) -> None:
    _, expected = bundle.reference()
    found = difference(expected, np.roll(expected, 1, axis=0))
    assert found.relative is not None
    assert found.relative > 0.5
    assert difference(np.ones((2, 3)), np.ones((2, 3))).relative is None
    with pytest.raises(CheckFailed, match="not finite"):
        difference(expected, expected * np.nan)


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        ((None, None, 3), ["GlobalAveragePooling2D"], r"takes \[\?, \?, \?, 3\], and has to take"),
        ((7,), [], r"takes \[\?, 7\], and has to take"),
        ((8, 8, 4), ["Flatten"], r"takes \[\?, 8, 8, 4\], and has to take"),
    ],
)
def test_a_model_of_other_shapes_is_refused(
    keras: Any, tmp_path: Path, shape: tuple[int | None, ...], layers: list[str], message: str
) -> None:
    stack = [keras.Input(shape), *(getattr(keras.layers, layer)() for layer in layers), keras.layers.Dense(2)]
    keras.Sequential(stack).save(tmp_path / "net.keras")
    with pytest.raises(BadInput, match=message):
        export(tmp_path / "model", model=str(tmp_path / "net.keras"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.keras"]


def test_an_unreadable_savedmodel_is_named(saved_model: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").mkdir()
    whole = (saved_model / "saved_model.pb").read_bytes()
    (tmp_path / "cut" / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"cut: can't be read"):
        export(tmp_path / "model", model=str(tmp_path / "cut"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cut"]
