"""Correlation clustering by local moves, for problems too large for the exact program.

Starts from average linkage (merge the two groups with the largest mean weight while that is positive) and from
everybody alone, then moves, swaps and merges while the objective rises; the best of several shuffles counts. Every
step keeps the limits, so the result always does.
"""

# U units (fused tasks), G groups

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from grouping.links import ROUNDING, Limits
from grouping.partition import Partition, in_order, pair_sum, respects

_EPSILON = 1e-9


def local_partition(weights: np.ndarray, limits: Limits, *, seed: int, restarts: int = 10) -> Partition:
    """A locally best partition.  [units, units], symmetric; raises ValueError where none keeps the limits."""
    weights = weights.copy()
    np.fill_diagonal(weights, 0.0)
    starts = [start for start in _starts(weights, limits) if respects(start, limits)]
    rng = np.random.default_rng(seed)
    best: Partition | None = None
    for restart in range(restarts):
        labels = starts[restart % len(starts)].copy()
        improve(labels, weights, limits, rng.permutation(len(labels)))
        value = pair_sum(weights, labels)
        if best is None or value > best.objective + _EPSILON:
            best = Partition(in_order(labels), value, "local search")
    assert best is not None and respects(best.labels, limits)
    return best


def agglomerate(weights: np.ndarray, limits: Limits, *, sizes: np.ndarray | None = None) -> list[np.ndarray]:
    """Average linkage that keeps the limits, merge by merge.  [units, units] sums of pair weights -> labels [units]

    Merges the two groups with the largest mean weight while that is positive, or down to the fixed number of groups.
    """
    num_units = len(weights)
    labels = np.arange(num_units)
    history = [labels.copy()]
    sums = weights.astype(float).copy()
    sizes = np.ones(num_units) if sizes is None else sizes.astype(float).copy()
    caps = [(loads.astype(float).copy(), cap) for loads, cap in limits.caps]
    barred = (
        np.eye(num_units, dtype=bool) if limits.apart_UU is None else limits.apart_UU | np.eye(num_units, dtype=bool)
    )
    for _ in range(num_units - (limits.num_groups or 1)):
        means = sums / np.outer(sizes, sizes)
        means[barred] = -np.inf
        for loads, cap in caps:
            means[loads[:, None] + loads[None, :] > cap + ROUNDING] = -np.inf
        keep, gone = sorted(divmod(int(np.argmax(np.round(means, 12))), num_units))
        mean = means[keep, gone]
        if mean == -np.inf or (limits.num_groups is None and mean <= 0):
            break
        labels[labels == gone] = keep
        sums[keep] += sums[gone]
        sums[:, keep] += sums[:, gone]
        sizes[keep] += sizes[gone]
        for loads, _ in caps:
            loads[keep] += loads[gone]
        barred[keep] |= barred[gone]
        barred[:, keep] |= barred[:, gone]
        barred[gone] = barred[:, gone] = True
        history.append(in_order(labels))
    return history


def improve(labels: np.ndarray, weights: np.ndarray, limits: Limits, order: np.ndarray) -> None:
    """Moves, swaps and merges in place until none raises the objective."""
    fixed = limits.num_groups is not None
    improved = True
    while improved:
        improved = sum(_move(labels, unit, weights, limits) for unit in order) > 0
        if not improved and (fixed or limits.binding):
            while _swap(labels, weights, limits):
                improved = True
        if not improved and not fixed:
            improved = _merge(labels, weights, limits)


def _starts(weights: np.ndarray, limits: Limits) -> list[np.ndarray]:
    linked = agglomerate(weights, limits)[-1]
    if limits.num_groups is None:
        return [linked, np.arange(len(weights))]
    return [linked] if respects(linked, limits) else [_seat(linked, limits)]


def _move(labels: np.ndarray, unit: int, weights: np.ndarray, limits: Limits) -> bool:
    """Moves one unit to the group, old or new, that it gains most from."""
    own, num_labels = labels[unit], labels.max() + 2  # the last one is a new group
    sizes_G = np.bincount(labels, minlength=num_labels)
    if limits.num_groups is not None and sizes_G[own] == 1:
        return False
    gains_G = np.bincount(labels, weights[unit], num_labels)
    here = gains_G[own]
    gains_G[own] = -np.inf
    if limits.num_groups is not None:
        gains_G[sizes_G == 0] = -np.inf
    for loads, cap in limits.caps:
        gains_G[np.bincount(labels, loads, num_labels) + loads[unit] > cap + ROUNDING] = -np.inf
    if limits.apart_UU is not None:
        gains_G[labels[limits.apart_UU[unit]]] = -np.inf
    best = int(np.argmax(gains_G))
    if gains_G[best] <= here + _EPSILON:
        return False
    labels[unit] = best
    return True


def _swap(labels: np.ndarray, weights: np.ndarray, limits: Limits) -> bool:
    """Swaps the best pair of units between their groups: full groups leave no room for a move."""
    names, place = np.unique(labels, return_inverse=True)
    onehot = (place[:, None] == np.arange(len(names))[None, :]).astype(float)
    to = (weights @ onehot)[:, place]
    own = np.diagonal(to)
    gain = to + to.T - 2 * weights - own[:, None] - own[None, :]
    gain[place[:, None] == place[None, :]] = -np.inf
    for loads, cap in limits.caps:
        after = (onehot.T @ loads)[place][None, :] + loads[:, None] - loads[None, :]  # of the group that the row joins
        full = after > cap + ROUNDING
        gain[full | full.T] = -np.inf
    if limits.apart_UU is not None and limits.apart_UU.any():
        barred = (limits.apart_UU @ onehot)[:, place] - limits.apart_UU > 0
        gain[barred | barred.T] = -np.inf
    a, b = divmod(int(np.argmax(gain)), len(labels))
    if gain[a, b] <= _EPSILON:
        return False
    labels[a], labels[b] = labels[b], labels[a]
    return True


def _merge(labels: np.ndarray, weights: np.ndarray, limits: Limits) -> bool:
    """Merges the two groups that gain most from each other."""
    names = np.unique(labels)
    onehot = (labels[:, None] == names[None, :]).astype(float)
    between = np.triu(onehot.T @ weights @ onehot, k=1)
    for flat in np.argsort(-between, axis=None):
        a, b = divmod(int(flat), len(names))
        if between[a, b] <= _EPSILON:
            return False
        if limits.allows(np.flatnonzero((labels == names[a]) | (labels == names[b]))):
            labels[labels == names[b]] = names[a]
            return True
    return False


def _seat(wanted: np.ndarray, limits: Limits) -> np.ndarray:
    """Any seating of the units in the fixed number of groups that keeps the limits, near a wanted one."""
    num_units, num_groups = len(wanted), limits.num_groups
    assert num_groups is not None
    liking = np.zeros((num_units, num_groups))
    seated = wanted < num_groups
    liking[np.flatnonzero(seated), wanted[seated]] = 1.0
    units, groups = np.divmod(np.arange(num_units * num_groups), num_groups)
    ones = np.ones(num_units * num_groups)
    shape = (num_units, num_units * num_groups)
    rows = [LinearConstraint(coo_array((ones, (units, np.arange(len(units)))), shape=shape).tocsr(), 1, 1)]
    shape = (num_groups, num_units * num_groups)
    rows.append(LinearConstraint(coo_array((ones, (groups, np.arange(len(units)))), shape=shape).tocsr(), 1, np.inf))
    for loads, cap in limits.caps:
        row = coo_array((loads[units], (groups, np.arange(len(units)))), shape=shape).tocsr()
        rows.append(LinearConstraint(row, -np.inf, cap))
    if limits.apart_UU is not None and limits.apart_UU.any():
        a, b = np.nonzero(np.triu(limits.apart_UU))
        row = np.arange(len(a) * num_groups)
        seat = np.tile(np.arange(num_groups), len(a))
        columns = np.concatenate([np.repeat(a, num_groups), np.repeat(b, num_groups)]) * num_groups + np.tile(seat, 2)
        shape = (len(row), num_units * num_groups)
        rows.append(
            LinearConstraint(
                coo_array((np.ones(2 * len(row)), (np.tile(row, 2), columns)), shape=shape).tocsr(), -np.inf, 1
            )
        )
    result = milp(
        -liking.ravel(), integrality=ones, bounds=Bounds(0, 1), constraints=rows, options={"time_limit": 30.0}
    )
    if result.x is None:
        raise ValueError(
            f"GroupingConfig: no seating of the tasks in {num_groups} groups that keeps max_group_size and cannot_link "
            "was found. Allow more groups or larger ones, or drop some links."
        )
    return np.argmax(result.x.reshape(num_units, num_groups), axis=1)
