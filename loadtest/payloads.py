"""Real pictures as request payloads, cut to whatever image input a model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput
from model_tools.pictures import fit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

# Photographs that scikit-image carries in its wheel: nothing is downloaded.
PICTURES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)

NUMPY_TYPES = {"UINT8": "uint8", "INT8": "int8", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
DEFAULT_SIDE = 224  # for models that take any height and width
SUM_TOLERANCE = 0.02  # FP16 probabilities over a thousand classes add up to 1 within this


class WrongAnswer(Exception):
    """The server answered, but not what this model can answer; the message says what is wrong."""


@dataclass(frozen=True)
class ModelInterface:
    """What one image model takes and gives, as its server describes it.

    input_shape and output_shape are those of a request with one picture, batch dimension included where
    the model has one. channels_first is true for [3, H, W] inputs. probabilities says that the output's
    last axis must add up to 1.
    """

    name: str
    input_name: str
    input_type: str
    input_shape: tuple[int, ...]
    channels_first: bool
    output_name: str
    output_type: str
    output_shape: tuple[int, ...]
    probabilities: bool

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ModelInterface:
        """Reads Triton's model metadata (KServe v2 JSON). Raises BadInput for anything but an image model."""
        name = metadata["name"]
        inputs, outputs = metadata.get("inputs", []), metadata.get("outputs", [])
        if len(inputs) != 1 or not outputs:
            raise BadInput(
                f"model {name} has {len(inputs)} inputs and {len(outputs)} outputs: "
                "the load test drives models with one image input"
            )
        given, answer = inputs[0], outputs[0]
        if given["datatype"] not in NUMPY_TYPES:
            raise BadInput(f"model {name}: input {given['name']} is {given['datatype']}, not pixels")
        shape = [int(size) for size in given["shape"]]
        if len(shape) not in (3, 4):
            raise BadInput(f"model {name}: input {given['name']} has shape {shape}, not that of a picture")
        batch, image = shape[:-3], shape[-3:]
        channels_first = image[0] in (1, 3) and image[2] not in (1, 3)
        channels = image[0] if channels_first else image[2]
        if channels not in (-1, 1, 3):
            raise BadInput(f"model {name}: input {given['name']} has {channels} channels, not 1 or 3")
        sides = [
            3 if size == -1 and axis == (0 if channels_first else 2) else size
            for axis, size in enumerate(image)
        ]
        return cls(
            name=name,
            input_name=given["name"],
            input_type=given["datatype"],
            input_shape=tuple([1] * len(batch) + [DEFAULT_SIDE if size == -1 else size for size in sides]),
            channels_first=channels_first,
            output_name=answer["name"],
            output_type=answer["datatype"],
            output_shape=tuple(
                1 if axis == 0 and size == -1 else int(size)
                for axis, size in enumerate(int(size) for size in answer["shape"])
            ),
            probabilities=any(word in answer["name"].lower() for word in ("prob", "softmax")),
        )


def pictures(model: ModelInterface) -> list[np.ndarray]:
    """Every picture as one request's input tensor: model.input_shape, in the model's type, pixels 0..255."""
    import numpy as np
    from PIL import Image

    image_shape = model.input_shape[-3:]
    height, width = image_shape[1:] if model.channels_first else image_shape[:2]
    channels = image_shape[0] if model.channels_first else image_shape[2]
    tensors = []
    for path in _picture_files():
        with Image.open(path) as picture:
            pixels = fit(picture, height, width, channels)
        if model.channels_first:
            pixels = pixels.transpose(2, 0, 1)
        dtype = NUMPY_TYPES[model.input_type]
        tensors.append(np.ascontiguousarray(pixels.reshape(model.input_shape).astype(dtype)))
    return tensors


def check_answer(model: ModelInterface, shape: tuple[int, ...], values: np.ndarray) -> None:
    """Raises WrongAnswer unless values (flat, or of that shape) can be this model's answer to one picture."""
    import numpy as np

    expected = model.output_shape
    if len(shape) != len(expected) or any(
        size not in (-1, got) for size, got in zip(expected, shape, strict=True)
    ):
        raise WrongAnswer(f"output {model.output_name} has shape {list(shape)}, not {list(expected)}")
    if values.size == 0 or values.size != int(np.prod(shape)):
        raise WrongAnswer(f"output {model.output_name} holds {values.size} values for shape {list(shape)}")
    # The sum shows NaN and infinity too, in one pass over the answer.
    total = float(values.sum(dtype=np.float64))
    if not np.isfinite(total):
        raise WrongAnswer(f"output {model.output_name} is not finite")
    if model.probabilities and (abs(total - 1) > SUM_TOLERANCE or float(values.min()) < 0):
        raise WrongAnswer(
            f"output {model.output_name} is no probability distribution: it adds up to {total:.4g}"
        )


def _picture_files() -> list[Any]:
    # scikit-image itself is not imported: it would bring scipy, and only its files are needed.
    from importlib.util import find_spec
    from pathlib import Path

    found = find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise BadInput("scikit-image is not installed: its pictures are the payloads (extra `loadtest`)")
    folder = Path(next(iter(found.submodule_search_locations))) / "data"
    files = [folder / name for name in PICTURES if (folder / name).is_file()]
    if not files:
        raise BadInput(f"{folder} holds none of {', '.join(PICTURES)}")
    return files
