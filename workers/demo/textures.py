"""The demo world's textures: ten patterns as functions on the plane, one when ink is dense and zero where it is not."""

from collections.abc import Callable

import numpy as np

Pattern = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def texture_ink(name: str, x: np.ndarray, y: np.ndarray, duty: float) -> np.ndarray:
    """Ink of a texture at points (x, y), measured in periods: the pattern repeats when either grows by one.

    `duty` in (0, 1) is about the share of ink.  Any shape -> bool of that shape.
    """
    if name not in _PATTERNS:
        raise ValueError(f"texture {name!r} is not known; expected one of {', '.join(TEXTURES)}.")
    return _PATTERNS[name](x, y, duty)


def _band(phase: np.ndarray, duty: float) -> np.ndarray:
    return np.mod(phase, 1.0) < duty


def _triangle_wave(x: np.ndarray) -> np.ndarray:
    return np.abs(np.mod(x, 1.0) - 0.5) * 2.0


def _checkerboard(x: np.ndarray, y: np.ndarray, duty: float) -> np.ndarray:
    return _band(x, 0.5) ^ _band(y, 0.5)


def _dots(x: np.ndarray, y: np.ndarray, duty: float) -> np.ndarray:
    return np.hypot(np.mod(x, 1.0) - 0.5, np.mod(y, 1.0) - 0.5) < 0.2 + 0.3 * duty


def _grid(x: np.ndarray, y: np.ndarray, duty: float) -> np.ndarray:
    return _band(x, 0.45 * duty) | _band(y, 0.45 * duty)


def _bricks(x: np.ndarray, y: np.ndarray, duty: float) -> np.ndarray:
    row = np.floor(y * 1.5)
    return ~(_band(y * 1.5, 0.4 * duty) | _band(x * 0.7 + 0.5 * np.mod(row, 2.0), 0.22 * duty))


def _rays(x: np.ndarray, y: np.ndarray, duty: float) -> np.ndarray:
    return _band(np.arctan2(y, x) * 9 / (2 * np.pi), duty)


def _spiral(x: np.ndarray, y: np.ndarray, duty: float) -> np.ndarray:
    return _band(np.hypot(x, y) + np.arctan2(y, x) * 2 / (2 * np.pi), duty)


_PATTERNS: dict[str, Pattern] = {
    "stripes": lambda x, y, duty: _band(x, duty),
    "checkerboard": _checkerboard,
    "dots": _dots,
    "grid": _grid,
    "zigzag": lambda x, y, duty: _band(y + 0.8 * _triangle_wave(x * 0.8), duty),
    "waves": lambda x, y, duty: _band(y + 0.3 * np.sin(2 * np.pi * x * 0.6), duty),
    "rings": lambda x, y, duty: _band(np.hypot(x, y), duty),
    "bricks": _bricks,
    "rays": _rays,
    "spiral": _spiral,
}
TEXTURES = tuple(_PATTERNS)
"""Names of all textures, which are also the words that captions use for them."""
CENTRED = frozenset({"rings", "rays", "spiral"})
"""Textures with a centre: the caller keeps it inside the picture."""
