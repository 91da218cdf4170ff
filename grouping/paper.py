"""The partition rule of the MmAP paper's setting: the largest sum of mean similarities within groups.

A task scores its mean similarity to the other members of its group, 0 alone. (The plain sum over pairs would always
give one group where all similarities are positive.) Exact over all subsets for small jobs, average linkage cut at zero
beyond. The closest published algorithm enumerates overlapping covers (Fifty et al. 2021); this is its disjoint form.
"""

# U units (fused tasks), T tasks

from collections.abc import Sequence

import numpy as np

from grouping.exact import no_partition
from grouping.links import Limits
from grouping.local import agglomerate
from grouping.partition import Partition

MAX_SUBSETS = 14
"""Most units for which all subsets are weighed: 3^14 / 2 of them take about a second."""


def mean_score(similarity: np.ndarray, labels: np.ndarray) -> float:
    """Sum over tasks of the mean similarity to the rest of the group.  [tasks, tasks], [tasks]"""
    score = 0.0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            within = similarity[np.ix_(members, members)]
            score += float(within.sum() - np.trace(within)) / (len(members) - 1)
    return score


def paper_partition(similarity: np.ndarray, units: Sequence[Sequence[int]], limits: Limits) -> Partition:
    """The best partition of units of tasks by `mean_score`; labels are per unit.  [tasks, tasks]

    Ties keep fewer groups. Raises ValueError where no partition keeps the limits.
    """
    if len(units) > MAX_SUBSETS:
        return _by_linkage(similarity, units, limits)
    values, allowed = _subset_values(similarity, units, limits)
    values = np.where(allowed, np.round(values, 12), -np.inf)
    everyone = len(values) - 1
    counts = [limits.num_groups] if limits.num_groups is not None else list(range(1, len(units) + 1))
    best, choices = _best_by_count(values, max(counts))
    count = max(counts, key=lambda k: (round(best[k][everyone], 9), -k))
    if best[count][everyone] == -np.inf:
        raise no_partition(limits)
    labels = np.zeros(len(units), dtype=int)
    left = everyone
    for k in range(count, 0, -1):
        group = int(choices[k][left])
        labels[[unit for unit in range(len(units)) if group >> unit & 1]] = k
        left ^= group
    return Partition(labels, float(best[count][everyone]), "subsets", gap=0.0)


def _subset_values(
    similarity: np.ndarray, units: Sequence[Sequence[int]], limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """Score of every subset of units as one group, and whether it may be one.  [2^units] each, indexed by bit mask"""
    sums_UU = np.array([[similarity[np.ix_(a, b)].sum() for b in units] for a in units])
    inner_U = np.array([similarity[np.ix_(a, a)].sum() - len(a) for a in units])
    sums, sizes, costs, allowed = np.zeros(1), np.zeros(1), np.zeros(1), np.ones(1, dtype=bool)
    for unit, tasks in enumerate(units):
        to_members = np.zeros(1)
        conflicts = np.zeros(1, dtype=bool)
        for member in range(unit):
            to_members = np.concatenate([to_members, to_members + 2 * sums_UU[unit, member]])
            apart = limits.apart_UU is not None and bool(limits.apart_UU[unit, member])
            conflicts = np.concatenate([conflicts, conflicts | apart])
        sums = np.concatenate([sums, sums + to_members + inner_U[unit]])
        sizes = np.concatenate([sizes, sizes + len(tasks)])
        costs = np.concatenate([costs, costs + limits.costs_U[unit]])
        allowed = np.concatenate([allowed, allowed & ~conflicts])
    if limits.max_cost is not None:
        allowed &= costs <= limits.max_cost
    return sums / np.maximum(sizes - 1, 1), allowed


def _best_by_count(values: np.ndarray, most: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each number of groups and each set of units: the best score, and the group of its lowest unit."""
    best = [np.full(len(values), -np.inf) for _ in range(most + 1)]
    choices = [np.zeros(len(values), dtype=int) for _ in range(most + 1)]
    best[0][0] = 0.0
    for mask in range(1, len(values)):
        lowest = mask & -mask
        groups = np.array([lowest])
        rest = mask ^ lowest
        while rest:
            bit = rest & -rest
            groups = np.concatenate([groups, groups | bit])
            rest ^= bit
        for k in range(1, most + 1):
            scores = values[groups] + best[k - 1][mask ^ groups]
            pick = int(np.argmax(scores))
            best[k][mask], choices[k][mask] = scores[pick], groups[pick]
    return best, choices


def _by_linkage(similarity: np.ndarray, units: Sequence[Sequence[int]], limits: Limits) -> Partition:
    sums_UU = np.array([[similarity[np.ix_(a, b)].sum() for b in units] for a in units])
    labels = agglomerate(sums_UU, limits, sizes=np.array([len(tasks) for tasks in units]))
    if limits.num_groups is not None and len(np.unique(labels)) != limits.num_groups:
        raise no_partition(limits)
    tasks = np.concatenate([np.full(len(unit), label) for unit, label in zip(units, labels, strict=True)])
    order = np.concatenate([np.asarray(unit) for unit in units])
    per_task = np.empty(len(order), dtype=int)
    per_task[order] = tasks
    return Partition(labels, mean_score(similarity, per_task), "average linkage")
