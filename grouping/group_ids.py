"""Ids of groups that outlive a regrouping: a group keeps the id of the old group it shares most tasks with."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment


def group_ids(groups: Sequence[Sequence[str]], previous: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """An id for each group: that of its best match among the previous ones (Hungarian method), else a new one.

    Without previous groups: g1, g2, ... in the order given. A number that was ever used is not used again.
    """
    previous = previous or {}
    old = list(previous)
    shared = np.array([[len(set(tasks) & set(previous[name])) for name in old] for tasks in groups])
    kept: dict[int, str] = {}
    if old and len(groups):
        rows, columns = linear_sum_assignment(shared, maximize=True)
        kept = {int(r): old[int(c)] for r, c in zip(rows, columns, strict=True) if shared[r, c] > 0}
    used = [int(name[1:]) for name in old if name[:1] == "g" and name[1:].isdigit()]
    fresh = iter(range(max(used, default=0) + 1, max(used, default=0) + len(groups) + 1))
    return [kept[number] if number in kept else f"g{next(fresh)}" for number in range(len(groups))]
