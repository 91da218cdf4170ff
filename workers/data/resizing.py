"""From an RGB image to the square of bytes that a backbone sees, as open_clip's own transforms do it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_MAX_ASPECT = 16
"""Beyond this ratio of sides a line of pixels would be blown up to gigabytes only to be cropped away."""


@dataclass(frozen=True)
class Resize:
    """How an image becomes a square; the words are those of open_clip's `resize_mode`."""

    size: int
    """Pixels of each side."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mode: Literal["shortest", "squash", "longest"] = "shortest"
    """Shorter side to size and centre crop; both sides to size; longer side to size and black bars."""


def resize_image(image: Image.Image, resize: Resize) -> np.ndarray:
    """RGB image of any size -> uint8 [3, size, size]."""
    assert image.mode == "RGB"
    size, resample = resize.size, _FILTERS[resize.interpolation]
    match resize.mode:
        case "squash":
            square = image.resize((size, size), resample)
        case "shortest":
            square = _shortest(_middle(image), size, resample)
        case "longest":
            square = _longest(image, size, resample)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _shortest(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    width, height = image.size
    # int(), not round(): torchvision cuts the longer side down.
    wide = size if width <= height else int(size * width / height)
    high = size if height <= width else int(size * height / width)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.resize((wide, high), resample).crop((left, top, left + size, top + size))


def _longest(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    ratio = max(image.size) / size
    wide, high = (max(1, round(side / ratio)) for side in image.size)
    square = Image.new("RGB", (size, size))
    square.paste(image.resize((wide, high), resample), ((size - wide) // 2, (size - high) // 2))
    return square


def _middle(image: Image.Image) -> Image.Image:
    width, height = image.size
    longest = _MAX_ASPECT * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image
