"""Encoded bytes to an RGB image, whatever Pillow can open: depth, palette, alpha, CMYK, rotation, animation.

The bytes come from outside, so nothing that a decoder does with them may take the service down: size is limited before
a pixel is decoded, and formats whose plugins run other programs or hold no pixels are not opened at all.
"""

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

Image.init()

# EPS runs Ghostscript; the others are empty shells that need a handler, or drawings.
NOT_OPENED = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")
FORMATS = tuple(name for name in Image.ID if name not in NOT_OPENED)
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)

MAX_PIXELS = 89_478_485
"""A larger image is refused unread (a decompression bomb); the count at which Pillow itself starts to warn."""

_INTEGER_WHITES = (65535.0,)  # Pillow opens 16-bit files as I;16 or I
_FLOAT_WHITES = (1.0, 255.0, 65535.0)  # a file of floats does not say which
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ValueError):
    """These bytes are no image that can be used; the message is the reason."""


def decode_rgb(encoded: bytes) -> Image.Image:
    """The first frame as RGB, upright, transparency on white.  UnreadableImage for anything that is no whole image."""
    if not encoded:
        raise UnreadableImage("the file is empty")
    try:
        with Image.open(BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}x{image.height} pixels exceed the limit of {MAX_PIXELS}")
            image.load()
            return _to_rgb(_upright(image))
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("no image format that can be opened") from error
    except Exception as error:
        # Not only OSError: on damaged bytes Pillow's plugins raise SyntaxError, struct.error, KeyError and more.
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        # Damaged metadata around good pixels: no viewer turns such an image, and it is not worth losing.
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        whites = _FLOAT_WHITES if image.mode == "F" else _INTEGER_WHITES
        return Image.fromarray(_to_bytes(np.asarray(image, dtype=np.float64), whites)).convert("RGB")
    if image.mode == "LAB":
        to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        converted = ImageCms.applyTransform(image, to_srgb)
        assert converted is not None
        return converted
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_bytes(values: np.ndarray, whites: tuple[float, ...]) -> np.ndarray:
    """Samples deeper than eight bits as eight.  [height, width] float64 -> the same, uint8.

    Black is 0 and white the smallest of `whites` that holds every sample; a range that fits none is stretched.
    """
    values = np.nan_to_num(values)
    low, high = float(values.min()), float(values.max())
    white = next((white for white in whites if high <= white), None)
    if low < 0 or white is None:
        values, white = values - low, max(high - low, 1e-12)
    return np.round(values * (255.0 / white)).astype(np.uint8)
