"""The tree beside a heat map: neighbours in its order are joined, those that agree most first, groups before others.

The heat map's order keeps groups together, so branches never cross.  Lengths are SVG user units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

WIDTH = 120.0


@dataclass(frozen=True)
class _Branch:
    start: int
    stop: int
    at: float
    """Its middle, in leaves."""
    height: float
    """Distance, 1 - similarity, at which it was joined; never below that of its parts."""


def dendrogram(similarity: Sequence[Sequence[float | None]], owners: Sequence[str], *, cell: float) -> str:
    """SVG path data of the tree over the rows of a square of `cell` wide cells; its leaves are at x = 0.

    `similarity` is in the order that is shown, `owners` says the group of every row.
    """
    values = np.array([[np.nan if value is None else value for value in row] for row in similarity], dtype=float)
    sums = _corner_sums(np.nan_to_num(values))
    counts = _corner_sums(np.isfinite(values).astype(float))
    joined: list[tuple[_Branch, _Branch, _Branch]] = []

    def merge(branches: list[_Branch]) -> list[_Branch]:
        while len(branches) > 1:
            distances = []
            for left, right in pairwise(branches):
                count = _block(counts, left, right)
                distances.append(1 - _block(sums, left, right) / count if count else 2.0)
            best = int(np.argmin(distances))
            left, right = branches[best : best + 2]
            height = max(distances[best], left.height, right.height)
            both = _Branch(left.start, right.stop, (left.at + right.at) / 2, height)
            joined.append((left, right, both))
            branches[best : best + 2] = [both]
        return branches

    rows = groupby(range(len(owners)), key=lambda row: owners[row])
    groups = [merge([_Branch(row, row + 1, row + 0.5, 0.0) for row in members]) for _, members in rows]
    merge([branch for group in groups for branch in group])
    highest = max((both.height for *_, both in joined), default=0.0) or 1.0

    def x_of(branch: _Branch) -> str:
        return f"{WIDTH * branch.height / highest:.1f}"

    return "".join(
        f"M{x_of(left)} {left.at * cell:.1f}H{x_of(both)}V{right.at * cell:.1f}H{x_of(right)}"
        for left, right, both in joined
    )


def _corner_sums(values: np.ndarray) -> np.ndarray:
    return np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _block(sums: np.ndarray, rows: _Branch, columns: _Branch) -> float:
    a, b, c, d = rows.start, rows.stop, columns.start, columns.stop
    return float(sums[b, d] - sums[a, d] - sums[b, c] + sums[a, c])
