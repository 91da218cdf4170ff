"""A plan's similarities for a page: a square of cells with its tree, a picture of every pair, one task's neighbours."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image

from grouping.plan import Plan
from service import wire
from service.heat_map import HeatMap, heat_map, shown_order
from service.pages.dendrogram import WIDTH, dendrogram

MAX_CELLS_SIDE = 60
"""A square of more tasks is drawn group by group, beside a picture of all of them."""
_LEVELS = 120
_POLES = ((38, 112, 200), (204, 86, 48))  # positive, negative: both are told from a light and from a dark ground

Show = Literal["similarity", "together"]


@dataclass(frozen=True)
class Square:
    """The heat map and its tree."""

    heat: HeatMap
    tree: str
    """SVG path data; its leaves stand at the right edge of the square."""
    width: float


def square(plan: dict[str, Any], matrices: wire.Similarity) -> Square | None:
    """None where nothing was measured, or where there are too many groups to draw."""
    found = Plan.model_validate(plan)
    heat = heat_map(found, matrices, max_side=MAX_CELLS_SIDE)
    if heat is None or found.similarity is None:
        return None
    order = shown_order(found)
    group_of = {task: group.id for group in found.groups for task in group.tasks}
    owners = [group_of[task] for task in order]
    values = _in_order(found.similarity, found.task_names, order)
    rows = values
    if heat.by_group:
        names = list(dict.fromkeys(owners))
        members = [[row for row, owner in enumerate(owners) if owner == name] for name in names]
        rows, owners = [[_mean(values, a, b) for b in members] for a in members], names
    return Square(heat, dendrogram(rows, owners, cell=heat.cell), heat.side + WIDTH + 8)


def picture(plan: dict[str, Any], matrices: wire.Similarity, show: Show) -> bytes | None:
    """A PNG with a pixel a pair, tasks in the order of the heat map; see-through where the two do not agree.

    None where this was not measured.
    """
    matrix = matrices.similarity if show == "similarity" else matrices.together
    if matrix is None:
        return None
    order = shown_order(Plan.model_validate(plan))
    rows = _in_order(matrix, matrices.task_names, order)
    values = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)
    others = np.abs(values[~np.eye(len(values), dtype=bool)])
    limit = float(np.nanmax(others)) if np.isfinite(others).any() else 1.0
    shares = np.nan_to_num(np.clip(values / (limit or 1.0), -1, 1))
    level = np.round(np.abs(shares) * _LEVELS).astype(np.uint8)
    image = Image.fromarray(np.where(shares < 0, level + _LEVELS + 1, level).astype(np.uint8), mode="P")
    image.putpalette([part for pole in _POLES for _ in range(_LEVELS + 1) for part in pole])
    alphas = bytes(round(255 * step / _LEVELS) for _ in _POLES for step in range(_LEVELS + 1))
    file = BytesIO()
    image.save(file, "PNG", transparency=alphas, optimize=True)
    return file.getvalue()


@dataclass(frozen=True)
class Pair:
    """Another task, seen from one."""

    task: str
    similarity: float | None
    error: float | None
    low: float | None
    high: float | None
    together: float | None


def neighbours(matrices: wire.Similarity, task: str) -> list[Pair]:
    """All other tasks, those that agree most with this one first; empty for an unknown one."""
    if task not in matrices.task_names or matrices.similarity is None:
        return []
    row = matrices.task_names.index(task)
    names = ("similarity", "standard_error", "low", "high", "together")
    columns = [
        matrix[row] if (matrix := getattr(matrices, name)) else [None] * len(matrices.task_names) for name in names
    ]
    pairs = [Pair(*found) for found in zip(matrices.task_names, *columns, strict=True) if found[0] != task]
    return sorted(pairs, key=lambda pair: -2 if pair.similarity is None else -pair.similarity, reverse=False)


def _in_order(matrix: list[list[float | None]], names: list[str], order: list[str]) -> list[list[float | None]]:
    place = {name: index for index, name in enumerate(names)}
    return [[matrix[place[a]][place[b]] for b in order] for a in order]


def _mean(values: list[list[float | None]], rows: list[int], columns: list[int]) -> float | None:
    known = [value for a in rows for b in columns if a != b and (value := values[a][b]) is not None]
    return sum(known) / len(known) if known else None
