"""Draws the demo world's small pictures: a mask of ink (shape, digit or texture), then ink over paper.

Shared by the pretraining data and the demo tasks; a `Look` says how loosely the pen is held and what the paper is like.
Everything random comes from the generator that is passed in, so equal generators give equal bytes.  Torch-free.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from workers.demo.strokes import digit_strokes, shape_outline
from workers.demo.textures import CENTRED, texture_ink

SIZE = 32
_ZOOM = 4  # masks are drawn this much larger and averaged down: Pillow's lines are not antialiased

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (240, 225, 50),
    "green": (50, 160, 60),
    "cyan": (60, 200, 210),
    "blue": (45, 75, 205),
    "purple": (130, 50, 165),
    "pink": (245, 145, 190),
    "brown": (120, 75, 40),
    "black": (25, 25, 25),
    "white": (238, 238, 238),
    "gray": (130, 130, 130),
}
COLOURS = tuple(PALETTE)
Background = Literal["plain", "gradient", "grain", "noise", "patches"]
Range = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How a picture is made.  Ranges are drawn from uniformly; lengths are shares of half the picture's side."""

    background: Background = "plain"
    filled: bool = True
    size: Range = (0.6, 0.9)
    thickness: Range = (0.1, 0.2)
    """Pen width, for outlines and digits."""
    rotation: float = 15.0
    """Largest turn to either side, degrees."""
    shear: float = 0.15
    wobble: float = 0.05
    """Amplitude of the smooth bending of every stroke."""
    offset: float = 0.12
    blur: Range = (0.0, 0.5)
    """Gaussian blur of the mask, pixels."""
    opacity: Range = (0.9, 1.0)
    """How far the ink covers the paper."""
    speckle: float = 6.0
    """Standard deviation of the pixel noise over all, of 255."""
    periods: Range = (2.5, 5.0)
    """Repetitions of a texture across the picture."""


def shape_mask(rng: np.random.Generator, name: str, look: Look) -> np.ndarray:
    """Ink of a shape, filled or outlined.  -> float32 [SIZE, SIZE] in [0, 1]"""
    points = _to_canvas(_bend(rng, [shape_outline(name)], look))[0]
    canvas = Image.new("L", (SIZE * _ZOOM, SIZE * _ZOOM))
    draw = ImageDraw.Draw(canvas)
    if look.filled:
        draw.polygon(points, fill=255)
    else:
        _stroke(draw, points, _pen(rng, look))
    return _shrink(rng, canvas, look)


def written_digit_mask(rng: np.random.Generator, digit: int, look: Look) -> np.ndarray:
    """Ink of a digit drawn with a pen.  -> float32 [SIZE, SIZE] in [0, 1]"""
    ways = digit_strokes(digit)
    strokes = _to_canvas(_bend(rng, list(ways[rng.integers(len(ways))]), look))
    canvas = Image.new("L", (SIZE * _ZOOM, SIZE * _ZOOM))
    draw = ImageDraw.Draw(canvas)
    pen = _pen(rng, look)
    for points in strokes:
        _stroke(draw, points, pen)
    return _shrink(rng, canvas, look)


def printed_digit_mask(rng: np.random.Generator, digit: int, look: Look) -> np.ndarray:
    """Ink of a digit in Pillow's bundled font, turned and slanted.  -> float32 [SIZE, SIZE] in [0, 1]"""
    side = SIZE * _ZOOM
    height = rng.uniform(*look.size) * side
    font = ImageFont.load_default(round(height * 1.25))
    canvas = Image.new("L", (side, side))
    left, top, right, bottom = font.getbbox(str(digit))
    place = ((side - left - right) / 2, (side - top - bottom) / 2)
    bold = round(rng.uniform(0, look.thickness[1]) * 0.2 * side / 2)
    ImageDraw.Draw(canvas).text(place, str(digit), fill=255, font=font, stroke_width=bold)
    (a, b), (c, d) = np.linalg.inv(_turn(rng, look, 1.0))
    dx, dy = side / 2 * (1 + rng.uniform(-look.offset, look.offset, 2))
    half = side / 2
    matrix = (a, b, half - a * dx - b * dy, c, d, half - c * dx - d * dy)
    return _shrink(rng, canvas.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR), look)


def scanned_digit_mask(rng: np.random.Generator, pixels: np.ndarray, look: Look) -> np.ndarray:
    """A low-resolution scan (any size, uint8, ink high) at the size of a picture, neither turned nor bent.

    -> float32 [SIZE, SIZE] in [0, 1]
    """
    inner = round(SIZE * rng.uniform(*look.size))
    scan = Image.fromarray(pixels).resize((inner, inner), Image.Resampling.BICUBIC)
    shift = (SIZE - inner) / 2 * (1 + rng.uniform(-look.offset, look.offset, 2))
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(scan, (int(shift[0]), int(shift[1])))
    return np.asarray(canvas, dtype=np.float32) / 255 * np.float32(rng.uniform(*look.opacity))


def texture_mask(rng: np.random.Generator, name: str, look: Look) -> np.ndarray:
    """Ink of a texture that fills the picture.  -> float32 [SIZE, SIZE] in [0, 1]"""
    axis = (np.arange(SIZE * 2) + 0.5) / SIZE - 1.0
    x, y = np.meshgrid(axis, axis)
    (a, b), (c, d) = _turn(rng, look, rng.uniform(*look.periods) / 2)
    phase = rng.uniform(-0.5, 0.5, 2) if name in CENTRED else rng.uniform(0, 1, 2)
    u, v = a * x + b * y + phase[0], c * x + d * y + phase[1]
    waves = rng.uniform(0, 2 * np.pi, 2)
    bend = look.wobble * 3
    u, v = u + bend * np.sin(2.2 * y + waves[0]), v + bend * np.sin(2.2 * x + waves[1])
    ink = texture_ink(name, u, v, rng.uniform(0.4, 0.6))
    canvas = Image.fromarray(ink.astype(np.uint8) * 255).reduce(2)
    return _soften(rng, canvas, look)


def paint(rng: np.random.Generator, mask: np.ndarray, ink: str, paper: str, look: Look) -> np.ndarray:
    """Ink over paper; `paper` is ignored where the background is noise.  -> uint8 [SIZE, SIZE, 3]"""
    return paint_layers(rng, [(mask, ink)], paper, look)


def paint_layers(
    rng: np.random.Generator, layers: Sequence[tuple[np.ndarray, str]], paper: str, look: Look
) -> np.ndarray:
    """Several masks, each in its ink, one over the other.  -> uint8 [SIZE, SIZE, 3]"""
    picture = _ground(rng, _colour(rng, paper), look.background)
    for mask, ink in layers:
        cover = mask[:, :, None]
        picture = picture * (1 - cover) + _colour(rng, ink) * cover
    picture += rng.normal(0, look.speckle, picture.shape).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def two_colours(rng: np.random.Generator) -> tuple[str, str]:
    """Two palette names that are far apart, so that ink shows on paper."""
    while True:
        ink, paper = (COLOURS[i] for i in rng.choice(len(COLOURS), 2, replace=False))
        if far_apart(ink, paper):
            return ink, paper


def far_apart(colour: str, other: str) -> bool:
    """Whether two palette names differ by 130 at least in RGB (Euclidean)."""
    return bool(np.linalg.norm(np.subtract(PALETTE[colour], PALETTE[other])) >= 130)


def encode_png(picture: np.ndarray) -> bytes:
    """uint8 [height, width, 3] -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _turn(rng: np.random.Generator, look: Look, scale: float) -> np.ndarray:
    angle = np.radians(rng.uniform(-look.rotation, look.rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1.0, rng.uniform(-look.shear, look.shear)], [0.0, rng.uniform(1 - look.shear, 1 + look.shear)]])
    return scale * turn @ slant


def _bend(rng: np.random.Generator, strokes: list[np.ndarray], look: Look) -> list[np.ndarray]:
    turn = _turn(rng, look, rng.uniform(*look.size))
    offset = rng.uniform(-look.offset, look.offset, 2)
    frequency, phase = rng.uniform(1.5, 4.0, 2), rng.uniform(0, 2 * np.pi, 2)
    bent = [s + look.wobble * np.sin(s[:, ::-1] * frequency + phase) for s in strokes]
    return [s @ turn.T + offset for s in bent]


def _to_canvas(strokes: list[np.ndarray]) -> list[list[tuple[float, float]]]:
    side = SIZE * _ZOOM
    return [[(float(x), float(y)) for x, y in (stroke + 1) * side / 2] for stroke in strokes]


def _pen(rng: np.random.Generator, look: Look) -> int:
    return max(1, round(rng.uniform(*look.thickness) * SIZE * _ZOOM / 2))


def _stroke(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], pen: int) -> None:
    draw.line(points, fill=255, width=pen, joint="curve")
    for x, y in (points[0], points[-1]):  # round ends, as a pen leaves them
        draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)


def _shrink(rng: np.random.Generator, canvas: Image.Image, look: Look) -> np.ndarray:
    return _soften(rng, canvas.reduce(_ZOOM), look)


def _soften(rng: np.random.Generator, canvas: Image.Image, look: Look) -> np.ndarray:
    radius = rng.uniform(*look.blur)
    if radius > 0.05:
        canvas = canvas.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(canvas, dtype=np.float32) / 255 * np.float32(rng.uniform(*look.opacity))


def _colour(rng: np.random.Generator, name: str) -> np.ndarray:
    return np.clip(np.array(PALETTE[name]) + rng.normal(0, 12, 3), 0, 255).astype(np.float32)


def _ground(rng: np.random.Generator, colour: np.ndarray, background: Background) -> np.ndarray:
    flat = np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32)
    match background:
        case "plain":
            return flat
        case "gradient":
            angle = rng.uniform(0, 2 * np.pi)
            axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
            ramp = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
            return flat + ramp[:, :, None] * rng.uniform(20, 50, 3).astype(np.float32)
        case "grain":
            return flat + rng.normal(0, 25, (SIZE, SIZE, 1)).astype(np.float32)
        case "noise":
            return rng.uniform(40, 215, (SIZE, SIZE, 3)).astype(np.float32)
        case "patches":
            cells = Image.fromarray(rng.integers(0, 91, (6, 6, 3), dtype=np.uint8))
            return flat + np.asarray(cells.resize((SIZE, SIZE), Image.Resampling.BILINEAR), dtype=np.float32) - 45
