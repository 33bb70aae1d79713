"""Every kind of source gives the same pixels for the same picture, and names one that it can't use."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loadtest.payloads import ModelInterface
from loadtest.payloads import pictures as payloads
from model_tools import datasets, pictures
from model_tools.console import BadInput
from model_tools.datasets import batches, spread

SHAPE = (32, 32, 3)


def photograph(seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """ImageNet's layout: 3 classes, 4 pictures each."""
    for label, name in enumerate(("n01", "n02", "n03")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            photograph(10 * label + index).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def record(features: dict[str, bytes | int]) -> bytes:
    """A tf.train.Example in a TFRecord's frame."""
    example = datasets._example()()
    for key, value in features.items():
        entry = example.features.feature.add(key=key)
        if isinstance(value, bytes):
            entry.value.bytes_list.value.append(value)
        else:
            entry.value.int64_list.value.append(value)
    body = bytes(example.SerializeToString())
    return struct.pack("<QI", len(body), 0) + body + struct.pack("<I", 0)


def whole(source: Path | str, **options: Any) -> tuple[Any, Any]:
    found = list(batches(str(source), SHAPE, 5, **options))
    labels = [batch.labels for batch in found]
    return (
        np.concatenate([batch.pixels for batch in found]),
        None if labels[0] is None else np.concatenate(labels),
    )


def test_folders_records_and_arrays_give_the_same(classes: Path, tmp_path: Path) -> None:
    pixels, labels = whole(classes)
    assert pixels.shape == (12, *SHAPE)
    assert pixels.dtype == np.uint8
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    files = sorted(classes.glob("*/*.png"))
    (tmp_path / "data.tfrecord").write_bytes(
        b"".join(
            record(
                {"image/encoded": file.read_bytes(), "image/class/label": 1 + int(file.parent.name[1:]) - 1}
            )
            for file in files
        )
    )
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels)
    for source, first in ((tmp_path / "data.tfrecord", 1), (tmp_path / "data.npz", 0)):
        same, known = whole(source, first_label=first)
        assert np.array_equal(same, pixels)
        assert np.array_equal(known, labels)


def test_records_are_those_that_tensorflow_writes(tmp_path: Path) -> None:
    """In protobuf's text: features { feature { key: "label" value { int64_list { value: 7 } } } }."""
    body = bytes.fromhex("0a100a0e0a056c6162656c12051a030a0107")
    assert datasets._features(body, "r", "--dataset") == {"label": 7}


def test_a_limit_leaves_no_class_out(classes: Path) -> None:
    _, labels = whole(classes, limit=3)
    assert labels.tolist() == [0, 1, 2]


@given(st.integers(0, 1000), st.none() | st.integers(1, 1000))
def test_a_spread_is_in_order_and_as_long_as_asked(count: int, limit: int | None) -> None:
    found = spread(count, limit)
    assert found == sorted(set(found))
    assert len(found) == min(count, limit or count)
    assert all(0 <= index < count for index in found)


def test_digits_are_all_there_with_their_labels() -> None:
    pixels, labels = whole("digits", limit=100)
    assert pixels.shape == (100, *SHAPE)
    assert set(labels) == set(range(10))
    assert pixels.max() > 200


class TestPreparation:
    """A picture that calibration, evaluation, warm-up or load test prepared otherwise would mismatch."""

    def test_everything_goes_through_one_function(
        self, classes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, ...]] = []

        def fit(picture: Any, *shape: int) -> Any:
            seen.append(shape)
            return np.zeros(shape, np.uint8)

        for module in (pictures, datasets, __import__("loadtest.payloads").payloads):
            monkeypatch.setattr(module, "fit", fit)
        assert pictures.pictures(2, *SHAPE).max() == 0  # calibration by default, and the warm-up's sample
        assert whole(classes)[0].max() == 0
        assert whole("digits", limit=10)[0].max() == 0
        interface = ModelInterface("m", "image", "UINT8", (1, *SHAPE), False, "p", "FP32", (1, 10), True)
        tensors = payloads(interface)
        assert max(tensor.max() for tensor in tensors) == 0
        assert len(seen) == 2 + 12 + 10 + len(tensors)

    def test_the_load_test_sends_what_calibration_sees(self, tmp_path: Path) -> None:
        """The same file, as payload and out of a folder."""
        from importlib.util import find_spec

        spec = find_spec("skimage")
        assert spec is not None
        assert spec.submodule_search_locations
        source = Path(next(iter(spec.submodule_search_locations))) / "data" / "astronaut.png"
        (tmp_path / source.name).write_bytes(source.read_bytes())
        interface = ModelInterface("m", "image", "UINT8", (1, *SHAPE), False, "p", "FP32", (1, 10), True)
        assert np.array_equal(payloads(interface)[0][0], whole(tmp_path)[0][0])

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_picture_is_cut_around_its_middle(self, channels: int) -> None:
        wide = Image.new("RGB", (90, 30), "red")
        wide.paste((0, 0, 255), (30, 0, 60, 30))
        fitted = pictures.fit(wide, 16, 16, channels)
        assert fitted.shape == (16, 16, channels)
        assert fitted.dtype == np.uint8
        assert (fitted[:, 1:-1, -1] >= (254 if channels == 3 else 28)).all()
        assert (np.abs(fitted[:, ::15].astype(int) - fitted[:, [1, -2]]) < 20).all()


class TestRefusals:
    def refused(self, source: Path | str, shape: tuple[int, ...] = SHAPE) -> str:
        with pytest.raises(BadInput) as error:
            list(batches(str(source), shape, 4, option="--calibration"))
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert "holds no pictures" in self.refused(tmp_path)

    def test_a_source_that_is_not_there(self, tmp_path: Path) -> None:
        assert "no such folder or file (or photographs or digits)" in self.refused(tmp_path / "none")

    def test_a_file_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("")
        assert "is no folder, .npz or .tfrecord file" in self.refused(tmp_path / "notes.txt")

    @pytest.mark.parametrize("content", [b"", b"no picture"])
    def test_an_unreadable_picture(self, classes: Path, content: bytes) -> None:
        (classes / "n02" / "1.png").write_bytes(content)
        assert "n02/1.png: is no readable picture" in self.refused(classes)

    def test_a_picture_that_is_cut(self, classes: Path) -> None:
        file = classes / "n02" / "1.png"
        file.write_bytes(file.read_bytes()[:2000])
        assert "n02/1.png: is no readable picture" in self.refused(classes)

    def test_a_picture_far_too_small(self, classes: Path) -> None:
        photograph(size=(7, 40)).save(classes / "n01" / "2.png")
        assert "2.png: is 7x40, and the model takes 32x32" in self.refused(classes)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": np.zeros((4, 32, 32, 3), np.float32)}, "holds float32, and raw pixels are uint8"),
            ({"images": np.zeros((4, 24, 32, 3), np.uint8)}, r"holds pictures of [24, 32, 3]"),
            ({"a": np.zeros(1), "b": np.zeros(1)}, "holds a, b, and no `images`"),
            (
                {"images": np.zeros((4, *SHAPE), np.uint8), "labels": np.zeros(3, int)},
                "4 pictures and 3 labels",
            ),
        ],
    )
    def test_arrays_of_the_wrong_kind(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        np.savez(tmp_path / "data.npz", **arrays)
        assert message in self.refused(tmp_path / "data.npz")

    def test_arrays_that_are_no_archive(self, tmp_path: Path) -> None:
        (tmp_path / "data.npz").write_bytes(b"PK no archive")
        assert "is no readable .npz file" in self.refused(tmp_path / "data.npz")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (record({"label": 1}), "record 0 has no feature image/encoded"),
            (record({"image/encoded": b"x"}), "record 0: is no readable picture"),
            (record({"label": 1})[:-6], "ends within a record"),
            (b"not a record file", "is no TFRecord file"),
            (struct.pack("<QI", 3, 0) + b"\xff\xff\xff" + bytes(4), "record 0 is no tf.train.Example"),
        ],
    )
    def test_records_of_the_wrong_kind(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "data.tfrecord").write_bytes(content)
        assert message in self.refused(tmp_path / "data.tfrecord")

    def test_a_model_without_a_fixed_size(self) -> None:
        assert "pictures need [height, width, channels] of fixed sizes" in self.refused("digits", (-1, -1, 3))
