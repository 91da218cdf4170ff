"""From an RGB image to the square of bytes that a backbone sees."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Resize:
    """How an image becomes a square; the words are those of open_clip's `resize_mode`."""

    size: int
    """Pixels of each side."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mode: Literal["shortest", "squash", "longest"] = "shortest"
    """Shorter side to size and centre crop; both sides to size; longer side to size and black bars."""
