"""Pictures, and labels where there are some, as requests bring them: raw pixels in the model's size.

A source is a name of what dependencies carry, or a path:

photographs   scikit-image's, cropped, no labels
digits        scikit-learn's 1,797 handwritten digits with labels 0 to 9
DIR           ImageNet's layout, DIR/CLASS/picture; labels count the classes in the order of their names.
              Or pictures right in DIR, without labels
FILE.npz      `images` uint8 [N, height, width, channels] in the model's size, and `labels` [N] where known
FILE.tfrecord records (tf.train.Example) with `image/encoded` and `image/class/label`; or a folder of them

Whatever has to be resized goes through `pictures.fit`, as the load test's payloads do. Nothing here subtracts
means or scales: that is in the model's graph, the same for calibration, evaluation and serving.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_tools.console import BadInput
from model_tools.pictures import fit, pictures

BUILT_IN = ("photographs", "digits")
PICTURES = 512  # photographs: crops of a few, so more of them say no more
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
ENLARGED = 4  # times that a picture may be enlarged


@dataclass(frozen=True)
class Batch:
    """pixels: uint8 [n, height, width, channels]; labels: int64 [n], or None where the source has none."""

    pixels: Any
    labels: Any | None


def batches(
    source: str,
    shape: tuple[int, ...],
    size: int,
    limit: int | None = None,
    option: str = "--dataset",
    first_label: int = 0,
) -> Iterator[Batch]:
    """The source's pictures in batches of `size`, the last may be smaller; in the same order every time.

    shape: (height, width, channels) of the model's input. With `limit` that many are taken, spread evenly
    over a source of files, so that no class is left out for its name. Labels count from `first_label` in the
    source and from 0 here. Raises BadInput, which names `option` and the picture, for what can't be used.
    """
    if len(shape) != 3 or any(side < 1 for side in shape):
        raise BadInput(
            f"the model takes {list(shape)}, and pictures need [height, width, channels] of fixed sizes;"
            " export it with a fixed size"
        )
    pending: list[tuple[Any, int | None]] = []
    for item in _items(source, shape, limit, option):
        pending.append(item)
        if len(pending) == size:
            yield _batch(pending, first_label)
            pending = []
    if pending:
        yield _batch(pending, first_label)


def _batch(items: list[tuple[Any, int | None]], first_label: int) -> Batch:
    import numpy as np

    labels = [label for _, label in items]
    known = [label - first_label for label in labels if label is not None]
    return Batch(
        np.stack([pixels for pixels, _ in items]),
        np.array(known, np.int64) if len(known) == len(labels) else None,
    )


def _items(
    source: str, shape: tuple[int, ...], limit: int | None, option: str
) -> Iterator[tuple[Any, int | None]]:
    """(pixels uint8 [height, width, channels], label or None), one picture after the other."""
    if source == "photographs":
        yield from ((pixels, None) for pixels in pictures(min(limit or PICTURES, PICTURES), *shape))
        return
    if source == "digits":
        yield from _digits(shape, limit)
        return
    path = Path(source)
    if path.is_dir():
        records = sorted(file for file in path.iterdir() if file.is_file() and "tfrecord" in file.name)
        yield from _records(records, shape, limit, option) if records else _files(path, shape, limit, option)
    elif path.suffix == ".npz":
        yield from _arrays(path, shape, limit, option)
    elif path.is_file() and "tfrecord" in path.name:
        yield from _records([path], shape, limit, option)
    elif path.exists():
        raise BadInput(f"{option}: {path}: is no folder, .npz or .tfrecord file")
    else:
        raise BadInput(f"{option}: {path}: no such folder or file (or {' or '.join(BUILT_IN)})")


def spread(count: int, limit: int | None) -> list[int]:
    """Indices of `limit` things out of `count`, evenly spread; all of them without a limit."""
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def _digits(shape: tuple[int, ...], limit: int | None) -> Iterator[tuple[Any, int | None]]:
    import numpy as np
    from PIL import Image

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BadInput("digits need scikit-learn: pip install 'inference-system[quantize]'") from error
    digits = load_digits()
    for index in spread(len(digits.images), limit):
        grey = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)  # 0 to 16 in the data set
        yield fit(Image.fromarray(grey), *shape), int(digits.target[index])


def _files(
    folder: Path, shape: tuple[int, ...], limit: int | None, option: str
) -> Iterator[tuple[Any, int | None]]:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    labelled = [(file, label) for label, entry in enumerate(classes) for file in _pictures_in(entry)]
    found: list[tuple[Path, int | None]] = [*labelled] or [(file, None) for file in _pictures_in(folder)]
    if not found:
        raise BadInput(
            f"{option}: {folder}: holds no pictures ({', '.join(sorted(SUFFIXES))}), neither itself nor in"
            " folders of classes"
        )
    for index in spread(len(found), limit):
        file, label = found[index]
        yield _decoded(file.read_bytes(), str(file), shape, option), label


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _decoded(data: bytes, name: str, shape: tuple[int, ...], option: str) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            if min(picture.width * ENLARGED - shape[1], picture.height * ENLARGED - shape[0]) < 0:
                raise BadInput(
                    f"{option}: {name}: is {picture.width}x{picture.height}, and the model takes"
                    f" {shape[1]}x{shape[0]}: too small to say what a picture of that size does; leave it out"
                )
            return fit(picture, *shape)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{option}: {name}: is no readable picture ({error}); leave it out") from error


def _arrays(
    file: Path, shape: tuple[int, ...], limit: int | None, option: str
) -> Iterator[tuple[Any, int | None]]:
    import zipfile
    import zlib

    import numpy as np

    try:
        with np.load(file) as arrays:
            names = list(arrays.files)
            images = arrays["images"] if "images" in names or len(names) != 1 else arrays[names[0]]
            labels = arrays["labels"] if "labels" in names else None
    except KeyError as error:
        raise BadInput(f"{option}: {file}: holds {', '.join(names) or 'nothing'}, and no `images`") from error
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{option}: {file}: is no readable .npz file ({error})") from error
    if images.dtype != np.uint8:
        raise BadInput(
            f"{option}: {file}: holds {images.dtype}, and raw pixels are uint8, 0 to 255; the model's graph"
            " does the preprocessing itself"
        )
    if images.shape[1:] != tuple(shape):
        raise BadInput(
            f"{option}: {file}: holds pictures of {list(images.shape[1:])}, and the model takes"
            f" {list(shape)};"
            " resize them as the server's clients do, or give a folder of pictures"
        )
    if labels is not None and labels.shape != images.shape[:1]:
        raise BadInput(f"{option}: {file}: holds {len(images)} pictures and {labels.size} labels")
    for index in spread(len(images), limit):
        yield images[index], None if labels is None else int(labels[index])


def _records(
    files: list[Path], shape: tuple[int, ...], limit: int | None, option: str
) -> Iterator[tuple[Any, int | None]]:
    count = 0
    for file in files:
        for number, record in enumerate(_framed(file, option)):
            if limit is not None and count >= limit:
                return
            features = _features(record, f"{file}: record {number}", option)
            encoded = features.get("image/encoded", features.get("image"))
            label = features.get("image/class/label", features.get("label"))
            if not isinstance(encoded, bytes):
                raise BadInput(f"{option}: {file}: record {number} has no feature image/encoded")
            pixels = _decoded(encoded, f"{file}: record {number}", shape, option)
            yield pixels, label if isinstance(label, int) else None
            count += 1


def _framed(file: Path, option: str) -> Iterator[bytes]:
    """The records of a TFRecord file: length (8 bytes), its CRC (4), the record, the record's CRC (4)."""
    with file.open("rb") as stream:
        while head := stream.read(12):
            if len(head) < 12:
                raise BadInput(f"{option}: {file}: ends within a record; it is cut or no TFRecord file")
            (length,) = struct.unpack("<Q", head[:8])
            if length > file.stat().st_size:
                raise BadInput(f"{option}: {file}: is no TFRecord file (a record of {length} bytes)")
            body = stream.read(length + 4)
            if len(body) < length + 4:
                raise BadInput(f"{option}: {file}: ends within a record; it is cut or no TFRecord file")
            yield body[:length]


def _features(record: bytes, name: str, option: str) -> dict[str, bytes | int]:
    """The first bytes or integer of each feature of a tf.train.Example, read without TensorFlow."""
    from google.protobuf.message import DecodeError

    example = _example()()
    try:
        example.ParseFromString(record)
    except DecodeError as error:
        raise BadInput(f"{option}: {name} is no tf.train.Example") from error
    found: dict[str, bytes | int] = {}
    for entry in example.features.feature:
        if entry.value.bytes_list.value:
            found[entry.key] = entry.value.bytes_list.value[0]
        elif entry.value.int64_list.value:
            found[entry.key] = entry.value.int64_list.value[0]
    return found


def _example() -> Any:
    """The message class of tf.train.Example, with a map as the list of entries that it is on the wire."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.Default()
    package = "inference_system.datasets"
    try:
        described = pool.FindMessageTypeByName(f"{package}.Example")
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto(name="datasets.proto", package=package, syntax="proto3")
        kinds = descriptor_pb2.FieldDescriptorProto
        for message, fields in {
            "BytesList": [("value", 1, kinds.TYPE_BYTES, "", True)],
            "Int64List": [("value", 1, kinds.TYPE_INT64, "", True)],
            "Feature": [
                ("bytes_list", 1, kinds.TYPE_MESSAGE, "BytesList", False),
                ("int64_list", 3, kinds.TYPE_MESSAGE, "Int64List", False),
            ],
            "Entry": [
                ("key", 1, kinds.TYPE_STRING, "", False),
                ("value", 2, kinds.TYPE_MESSAGE, "Feature", False),
            ],
            "Features": [("feature", 1, kinds.TYPE_MESSAGE, "Entry", True)],
            "Example": [("features", 1, kinds.TYPE_MESSAGE, "Features", False)],
        }.items():
            made = file.message_type.add(name=message)
            for name, number, kind, of, repeated in fields:
                label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
                field = made.field.add(name=name, number=number, type=kind, label=label)
                if of:
                    field.type_name = f".{package}.{of}"
        pool.AddSerializedFile(file.SerializeToString())
        described = pool.FindMessageTypeByName(f"{package}.Example")
    return message_factory.GetMessageClass(described)
