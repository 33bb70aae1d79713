"""Real pictures to check and measure models with, and how any picture comes to a model's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model_tools.console import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

# RGB photographs inside the scikit-image wheel; others would be downloaded.
NAMES = ("astronaut", "coffee", "chelsea", "rocket", "retina", "immunohistochemistry", "hubble_deep_field")


def fit(picture: Image, height: int, width: int, channels: int) -> Any:
    """A picture as a request holds it: uint8 [height, width, channels], RGB or grey pixels of 0 to 255.

    Cut around its middle to the model's proportions, then resized (bicubic). Calibration, evaluation, warm-up
    and the load test all come through here, so they can't see pictures that were prepared in different ways.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if channels not in (1, 3):
        raise BadInput(f"pictures have 1 or 3 channels, not {channels}")
    fitted = ImageOps.fit(
        picture.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BICUBIC
    )
    return np.asarray(fitted, np.uint8).reshape(height, width, channels)


def pictures(count: int, height: int, width: int, channels: int = 3) -> Any:
    """Different crops of real photographs, uint8 [count, height, width, channels], the same every time.

    `channels` is 3 (RGB) or 1 (grey).
    """
    import numpy as np
    from PIL import Image
    from skimage import data

    photographs = [Image.fromarray(getattr(data, name)()[..., :3]) for name in NAMES]
    batch = np.empty((count, height, width, channels), np.uint8)
    random = np.random.default_rng(0)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        # Half to all of the photograph's shorter side: a scene, not a texture.
        side = int(min(photograph.size) * random.uniform(0.5, 1))
        top, left = (int(random.integers(0, size - side + 1)) for size in photograph.size[::-1])
        batch[index] = fit(photograph.crop((left, top, left + side, top + side)), height, width, channels)
    return batch
