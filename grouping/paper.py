"""The partition rule of the MmAP paper's setting: the largest sum of mean similarities within groups.

A task scores its mean similarity to the other members of its group, 0 alone. (The plain sum over pairs would always
give one group where all similarities are positive.) Exact over all subsets for small jobs, the best step of average
linkage beyond. The closest published algorithm enumerates overlapping covers (Fifty et al. 2021); this is its
disjoint form.
"""

# U units (fused tasks), T tasks

from collections.abc import Sequence

import numpy as np

from grouping.exact import no_partition
from grouping.links import Limits
from grouping.local import agglomerate
from grouping.partition import Partition, unit_sums
from grouping.subsets import MAX_SUBSETS, best_subsets, subset_sums, subset_totals


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
    sums_UU = unit_sums(similarity, units)
    sizes_U = np.array([float(len(tasks)) for tasks in units])
    if len(units) > MAX_SUBSETS:
        return _by_linkage(similarity, units, sums_UU, sizes_U, limits)
    inside = 2 * subset_sums(sums_UU) + subset_totals(np.diagonal(sums_UU) - sizes_U)
    found = best_subsets(inside / np.maximum(subset_totals(sizes_U) - 1, 1), limits)
    if found is None:
        raise no_partition(limits)
    return Partition(*found, "subsets", gap=0.0)


def _by_linkage(
    similarity: np.ndarray, units: Sequence[Sequence[int]], sums_UU: np.ndarray, sizes_U: np.ndarray, limits: Limits
) -> Partition:
    """The step of average linkage with the best score: a cut where the mean similarity turns zero merges too far."""
    steps = agglomerate(sums_UU, limits, sizes=sizes_U)
    if limits.num_groups is not None:
        steps = [labels for labels in steps if len(np.unique(labels)) == limits.num_groups]
        if not steps:
            raise no_partition(limits)
    owner_T = np.empty(sum(len(tasks) for tasks in units), dtype=int)
    for unit, tasks in enumerate(units):
        owner_T[list(tasks)] = unit
    scores = [round(mean_score(similarity, labels[owner_T]), 9) for labels in steps]
    best = max(range(len(steps)), key=lambda step: (scores[step], step))
    return Partition(steps[best], scores[best], "average linkage")
