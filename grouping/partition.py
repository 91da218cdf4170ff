"""A partition of units into groups, and what it is worth.

The worth is that of correlation clustering: the sum, over all pairs that share a group, of how far they speak for it
(negative where they speak against it). One group for all and everybody alone are partitions like any other, so they
can be compared with the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grouping.links import Limits


@dataclass(frozen=True)
class Partition:
    """One label per unit, with the objective the solver reached."""

    labels: np.ndarray
    objective: float
    solver: str
    """`spectral`, `exact`, `local search`, `subsets`, `average linkage`, `one group` or `all alone`."""
    gap: float | None = None
    """Relative distance to the proven bound; None for a solver that proves nothing."""


def pair_sum(weights: np.ndarray, labels: np.ndarray) -> float:
    """Sum of the weights of all pairs that share a label.  [units, units], symmetric; [units]"""
    together = labels[:, None] == labels[None, :]
    return float(np.triu(weights * together, k=1).sum())


def unit_sums(values: np.ndarray, units: Sequence[Sequence[int]]) -> np.ndarray:
    """Sums over the pairs of tasks of every two units.  [tasks, tasks], symmetric -> [units, units]"""
    member_UT = np.zeros((len(units), len(values)))
    for unit, tasks in enumerate(units):
        member_UT[unit, list(tasks)] = 1.0
    sums_UU = member_UT @ values @ member_UT.T
    return 0.5 * (sums_UU + sums_UU.T)


def in_order(labels: np.ndarray) -> np.ndarray:
    """The same partition with labels 0, 1, ... in order of first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def respects(labels: np.ndarray, limits: Limits) -> bool:
    """Whether a partition keeps every limit."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if limits.num_groups is not None and len(groups) != limits.num_groups:
        return False
    return all(limits.allows(members) for members in groups)
