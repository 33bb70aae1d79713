"""Real pictures to check and measure models with: the photographs that scikit-image carries."""

from __future__ import annotations

from typing import Any

from model_tools.console import BadInput

# RGB photographs inside the scikit-image wheel; others would be downloaded.
NAMES = ("astronaut", "coffee", "chelsea", "rocket", "retina", "immunohistochemistry", "hubble_deep_field")


def pictures(count: int, height: int, width: int, channels: int = 3) -> Any:
    """Different crops of real photographs, uint8 [count, height, width, channels], the same every time.

    `channels` is 3 (RGB) or 1 (grey).
    """
    import numpy as np
    from skimage import color, data, transform

    if channels not in (1, 3):
        raise BadInput(f"pictures have 1 or 3 channels, not {channels}")
    photographs = [getattr(data, name)()[..., :3] for name in NAMES]
    batch = np.empty((count, height, width, channels), np.uint8)
    random = np.random.default_rng(0)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        # Half to all of the photograph's shorter side: a scene, not a texture.
        side = int(min(photograph.shape[:2]) * random.uniform(0.5, 1))
        top, left = (random.integers(0, size - side + 1) for size in photograph.shape[:2])
        crop = photograph[top : top + side, left : left + side]
        scaled = transform.resize(crop, (height, width), anti_aliasing=True)
        grey = color.rgb2gray(scaled)[..., None] if channels == 1 else scaled
        batch[index] = np.rint(grey * 255).astype(np.uint8)
    return batch
