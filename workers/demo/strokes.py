"""What the demo world's pen knows: outlines of shapes and the strokes of digits, as points in [-1, 1] squared.

x runs right and y runs down, as in images.  Pure geometry: no pixels, no colour, no randomness.
"""

from itertools import pairwise

import numpy as np

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "diamond",
    "hexagon",
    "moon",
    "arrow",
    "rectangle",
    "oval",
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, num_points: int = 24) -> np.ndarray:
    """Points of an ellipse's arc, angles in degrees: 0 right, 90 down, 180 left, 270 up.  -> [points, 2]"""
    angles = np.radians(np.linspace(start, stop, num_points))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)


def line(*points: tuple[float, float], num_points: int = 8) -> np.ndarray:
    """A polyline with `num_points` points per leg, so that later bending bends the legs too.  -> [points, 2]"""
    corners = np.array(points, dtype=float)
    steps = np.linspace(0.0, 1.0, num_points, endpoint=False)[:, None]
    legs = [a + steps * (b - a) for a, b in pairwise(corners)]
    return np.concatenate([*legs, corners[-1:]])


def shape_outline(name: str) -> np.ndarray:
    """The closed outline of one of `SHAPES`.  -> [points, 2]"""
    if name not in _OUTLINES:
        raise ValueError(f"shape {name!r} is not known; expected one of {', '.join(SHAPES)}.")
    return _OUTLINES[name]


def digit_strokes(digit: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """The ways to write `digit`: each a tuple of strokes [points, 2]."""
    if not 0 <= digit <= 9:
        raise ValueError(f"digit {digit} is not a digit; expected 0 to 9.")
    return _STROKES[digit]


def _regular(num_corners: int, turn: float, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    angles = np.radians(turn + np.arange(num_corners) * 360.0 / num_corners)
    radius = np.resize(np.array(radii), num_corners)
    corners = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    return line(*map(tuple, corners), tuple(corners[0]))


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 17, -y / 17], axis=1)


def _closed(*points: tuple[float, float]) -> np.ndarray:
    return line(*points, points[0])


_a = 0.35
_OUTLINES: dict[str, np.ndarray] = {
    "circle": arc(0, 0, 0.9, 0.9, 0, 360, 40),
    "square": _closed((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": _closed((0, -0.9), (0.9, 0.75), (-0.9, 0.75)),
    "star": _regular(10, -90, (1.0, 0.42)),
    "cross": _closed(
        (-_a, -0.9), (_a, -0.9), (_a, -_a), (0.9, -_a), (0.9, _a), (_a, _a),
        (_a, 0.9), (-_a, 0.9), (-_a, _a), (-0.9, _a), (-0.9, -_a), (-_a, -_a),
    ),
    "heart": _heart(),
    "diamond": _closed((0, -1.0), (0.65, 0), (0, 1.0), (-0.65, 0)),
    "hexagon": _regular(6, 0, (0.95,)),
    "moon": np.concatenate([arc(0, 0, 0.95, 0.95, 60, 300, 30), arc(0.35, 0, 0.75, 0.85, 285, 75, 30)]),
    "arrow": _closed((-0.95, -0.25), (0.1, -0.25), (0.1, -0.75), (1.0, 0), (0.1, 0.75), (0.1, 0.25), (-0.95, 0.25)),
    "rectangle": _closed((-1.0, -0.5), (1.0, -0.5), (1.0, 0.5), (-1.0, 0.5)),
    "oval": arc(0, 0, 1.0, 0.55, 0, 360, 40),
}  # fmt: skip

_STROKES: dict[int, tuple[tuple[np.ndarray, ...], ...]] = {
    0: ((arc(0, 0, 0.6, 0.95, -90, 270, 36),),),
    1: (
        (line((0, -0.95), (0, 0.95)),),
        (line((-0.35, -0.55), (0, -0.95), (0, 0.95)),),
        (line((-0.3, -0.6), (0, -0.95), (0, 0.95)), line((-0.4, 0.95), (0.4, 0.95))),
    ),
    2: ((np.concatenate([arc(0, -0.45, 0.55, 0.5, 190, 390), line((0.3, 0), (-0.6, 0.95), (0.6, 0.95))]),),),
    3: (
        (np.concatenate([arc(0, -0.48, 0.5, 0.47, 210, 440), arc(0, 0.48, 0.57, 0.48, 275, 510)]),),
        (np.concatenate([line((-0.5, -0.95), (0.5, -0.95), (0, -0.15)), arc(0, 0.4, 0.57, 0.55, 275, 510)]),),
    ),
    4: (
        (line((0.2, -0.95), (-0.6, 0.3), (0.6, 0.3)), line((0.25, -0.4), (0.25, 0.95))),
        (line((-0.45, -0.9), (-0.5, 0.1), (0.55, 0.1)), line((0.4, -0.7), (0.3, 0.95))),
        (line((0.25, 0.95), (0.25, -0.95), (-0.6, 0.3), (0.6, 0.3)),),
    ),
    5: (
        (np.concatenate([line((0.5, -0.95), (-0.4, -0.95), (-0.45, -0.15)), arc(0, 0.38, 0.57, 0.57, 230, 510)]),),
        (
            np.concatenate([line((-0.4, -0.85), (-0.45, -0.1)), arc(0, 0.38, 0.57, 0.57, 230, 510)]),
            line((-0.4, -0.9), (0.5, -0.95)),
        ),
    ),
    6: (
        (np.concatenate([arc(0.45, 0.4, 1.0, 1.35, 275, 180), arc(0, 0.42, 0.55, 0.53, 180, 540, 30)]),),
        (np.concatenate([line((0.1, -0.95), (-0.5, 0.3)), arc(-0.02, 0.42, 0.5, 0.5, 180, 540, 30)]),),
    ),
    7: (
        (line((-0.55, -0.95), (0.55, -0.95), (-0.15, 0.95)),),
        (line((-0.55, -0.9), (0.55, -0.95), (-0.1, 0.95)), line((-0.3, 0.05), (0.45, 0.0))),
    ),
    8: (
        (arc(0, -0.48, 0.45, 0.47, 90, 450, 30), arc(0, 0.48, 0.55, 0.48, -90, 270, 30)),
        (
            np.concatenate(
                [arc(0, -0.48, 0.45, 0.47, -30, -250, 24), line((-0.2, -0.05), (0.4, 0.25)),
                 arc(0, 0.48, 0.5, 0.47, -20, 200, 24), line((-0.45, 0.3), (0.4, -0.6))]
            ),
        ),
    ),
    9: (
        (arc(0, -0.42, 0.5, 0.52, 0, 360, 30), line((0.5, -0.45), (0.45, 0.2), (0.3, 0.95))),
        (np.concatenate([arc(0, -0.42, 0.5, 0.52, 0, 360, 30), arc(-0.4, -0.4, 0.9, 1.35, 0, 85)]),),
    ),
}  # fmt: skip
