"""Losses and scores over steps as the lines of small charts.

It knows no HTML: a template draws what stands here, so that every name passes the template's escaping.
Lengths are SVG user units, equal to CSS pixels at full size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

NUM_COLOURS = 8  # more lines than colours are drawn alike, with their mean on top
MAX_POINTS = 120  # of one line; more are averaged over spans
WIDTH, HEIGHT = 540.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 526.0, 10.0, 190.0

Points = Sequence[tuple[float, float]]
"""(step, value), by step."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one task while its group trained."""

    group: str
    task: str
    quantity: Literal["loss", "val_score"]
    """Training loss in nats, or the score on validation images, 0..1."""
    points: tuple[tuple[float, float], ...]
    """(step, value), by step; values that are not finite are left out of the drawing."""


@dataclass(frozen=True)
class Tick:
    """A gridline and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve of a chart."""

    task: str
    colour: int
    """1..8, or 0 for one of many."""
    path: str
    """SVG path data."""
    last: str
    """The last value, as written."""


@dataclass(frozen=True)
class Chart:
    """Lines in one pair of axes."""

    quantity: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    mean: Line | None
    """On top of lines that are drawn alike."""
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM


def chart(curves: Sequence[Curve], colours: Mapping[str, int]) -> Chart | None:
    """A chart of one quantity, or None if no curve has a finite value.

    `colours` gives tasks their colour 1..8.  Where a task has none, or there are more lines than colours, all are drawn
    alike, with their mean on top.
    """
    drawn = {c.task: thin([point for point in c.points if math.isfinite(point[1])]) for c in curves}
    drawn = {task: points for task, points in drawn.items() if points}
    if not drawn:
        return None
    percent = curves[0].quantity == "val_score"
    values = [value for points in drawn.values() for _, value in points]
    x_ticks = ticks(0, max(1, *(points[-1][0] for points in drawn.values())))
    y_ticks = ticks(min(values), max(values))
    if percent:
        y_ticks = [tick for tick in y_ticks if 0 <= tick <= 1]
    low, high = min(*y_ticks, *values), max(*y_ticks, *values)
    high = high if high > low else low + 1

    def x_of(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * step / x_ticks[-1]

    def y_of(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    def line(task: str, points: Points, colour: int) -> Line:
        path = " ".join(f"{'L' if i else 'M'}{x_of(x):.1f} {y_of(y):.1f}" for i, (x, y) in enumerate(points))
        path += " h0.01" if len(points) == 1 else ""  # with round caps, a point
        last = points[-1][1]
        return Line(task, colour, path, f"{100 * last:.1f} %" if percent else f"{last:.3g}")

    alike = len(drawn) > NUM_COLOURS or any(task not in colours for task in drawn)
    return Chart(
        quantity=curves[0].quantity,
        x_ticks=tuple(Tick(x_of(tick), f"{tick:g}") for tick in x_ticks),
        y_ticks=tuple(Tick(y_of(tick), f"{100 * tick:g} %" if percent else f"{tick:g}") for tick in y_ticks),
        lines=tuple(line(task, points, 0 if alike else colours[task]) for task, points in drawn.items()),
        mean=line("mean", mean_curve(list(drawn.values())), 1) if alike else None,
    )


def thin(points: Points) -> list[tuple[float, float]]:
    """At most 120 points: the means of steps and of values over spans with equally many points."""
    if len(points) <= MAX_POINTS:
        return list(points)
    edges = [round(i * len(points) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    means = (np.mean(points[start:stop], axis=0) for start, stop in pairwise(edges))
    return [(float(step), float(value)) for step, value in means]


def mean_curve(curves: Sequence[Points]) -> list[tuple[float, float]]:
    """The mean over curves at the steps where any has a point; a curve counts between its first and its last step."""
    grid = np.unique([step for points in curves for step, _ in points])
    rows = [np.interp(grid, *np.transpose(points), left=np.nan, right=np.nan) for points in curves]
    counts = np.isfinite(rows).sum(axis=0)
    sums = np.nansum(rows, axis=0)
    mean = [(float(step), float(total / count)) for step, total, count in zip(grid, sums, counts, strict=True) if count]
    return thin(mean)


def ticks(low: float, high: float, *, count: int = 4) -> list[float]:
    """Round numbers, about `count` steps of them, that enclose low to high."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.1 * (abs(low) or 1), high + 0.1 * (abs(high) or 1)
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = scale * next(factor for factor in (1, 2, 5, 10) if factor * scale >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
