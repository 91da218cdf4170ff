"""Gains of training together, for every subset and partition of a few tasks: plain arithmetic over a table of scores.

The gain of a task in a subset is its score there less its score alone.  A partition's worth is the mean gain of all
tasks, each in its own group; its regret is what the best partition is worth more.
"""

# T tasks

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from scipy.stats import rankdata

Subset = tuple[str, ...]
Partition = tuple[Subset, ...]
Table = Mapping[Subset, Mapping[str, float]]
"""A figure for every task of every subset; subsets have the order of the tasks."""


@dataclass(frozen=True)
class Prediction:
    """How well pair values foretell gains."""

    spearman: float
    p_value: float
    """Share of all ways to rename the tasks whose rank correlation is as high: pairs that share a task are not
    independent, so the tasks are shuffled and not the pairs (Mantel 1967)."""

    @property
    def words(self) -> str:
        if self.p_value <= 0.05:
            return "predictive"
        return "misleading" if self.p_value >= 0.95 else "not predictive"


def subsets(tasks: Sequence[str]) -> list[Subset]:
    """All non-empty subsets, the small ones first, each in the order of the tasks."""
    return [members for size in range(1, len(tasks) + 1) for members in combinations(tasks, size)]


def partitions(tasks: Sequence[str]) -> list[Partition]:
    """All ways to group the tasks: one group of all is the first, everybody alone the last."""
    if not tasks:
        return [()]
    *before, last = tasks
    found: list[Partition] = []
    for groups in partitions(before):
        found += [(*groups[:at], (*group, last), *groups[at + 1 :]) for at, group in enumerate(groups)]
        found.append((*groups, (last,)))
    return found


def tasks_of(table: Table) -> Subset:
    """All of them: the largest subset."""
    return max(table, key=len)


def gains(scores: Table) -> dict[Subset, dict[str, float]]:
    """Of every task in every subset, over training alone."""
    return {
        members: {task: score - scores[task,][task] for task, score in of_tasks.items()}
        for members, of_tasks in scores.items()
    }


def mean_of(tables: Sequence[Table]) -> dict[Subset, dict[str, float]]:
    """Entry by entry."""
    return {
        members: {task: float(np.mean([table[members][task] for table in tables])) for task in members}
        for members in tables[0]
    }


def worth(partition: Partition, gained: Table) -> float:
    """Mean gain of all tasks."""
    return float(np.mean([gained[group][task] for group in partition for task in group]))


def worths(gained: Table) -> dict[Partition, float]:
    """Of every partition."""
    return {partition: worth(partition, gained) for partition in partitions(tasks_of(gained))}


def best(values: Mapping[Partition, float]) -> Partition:
    """The partition worth most; the first of equals."""
    return max(values, key=lambda partition: round(values[partition], 9))


def regret(chosen: float, values: Mapping[Partition, float]) -> tuple[float, float]:
    """How far below the best, in the scores' unit, and as a share of what the best is above the mean partition."""
    top, mean = max(values.values()), float(np.mean(list(values.values())))
    return top - chosen, (top - chosen) / (top - mean) if top > mean else 0.0


def pair_gains(gained: Table) -> np.ndarray:
    """What the row's task does to the column's when the two train together.  -> [T, T], diagonal 0"""
    tasks = tasks_of(gained)
    values_TT = np.zeros((len(tasks), len(tasks)))
    for a, b in combinations(range(len(tasks)), 2):
        pair = (tasks[a], tasks[b])
        values_TT[a, b], values_TT[b, a] = gained[pair][tasks[b]], gained[pair][tasks[a]]
    return values_TT


def higher_order(pairs_TT: np.ndarray, tasks: Sequence[str]) -> dict[Subset, dict[str, float]]:
    """Gains foretold from pairs: the mean of what the others of a group do to a task, 0 alone.  [T, T]

    A group's value is then the mean of its pairs' values (higher-order approximation, Standley et al. 2020).
    """
    at = {task: index for index, task in enumerate(tasks)}
    return {
        members: {
            task: float(np.mean([pairs_TT[at[other], at[task]] for other in members if other != task] or [0.0]))
            for task in members
        }
        for members in subsets(tasks)
    }


def shared(gained: Table) -> dict[Subset, dict[str, float]]:
    """Every task with the mean of its subset: what a symmetric affinity can at best foretell of a pair."""
    return {members: dict.fromkeys(members, float(np.mean(list(of.values())))) for members, of in gained.items()}


def predictive(pairs_TT: np.ndarray, gained: Table, sizes: Collection[int]) -> Prediction | None:
    """Rank correlation of `higher_order` with the gains in subsets of these sizes; None if it says the same of all."""
    tasks = tasks_of(gained)
    cells = [(members, task) for members in subsets(tasks) if len(members) in sizes for task in members]
    actual = np.array([gained[members][task] for members, task in cells])

    def foretold(order: Sequence[int]) -> np.ndarray:
        values = higher_order(pairs_TT[np.ix_(order, order)], tasks)
        return np.array([values[members][task] for members, task in cells])

    orders = list(permutations(range(len(tasks))))
    if np.ptp(actual) == 0 or np.ptp(foretold(orders[0])) == 0:
        return None
    found = [spearman(foretold(order), actual) for order in orders]
    return Prediction(found[0], float(np.mean(np.array(found) >= found[0] - 1e-9)))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; values that differ by rounding alone are ties."""
    return float(np.corrcoef(rankdata(np.round(a, 9)), rankdata(np.round(b, 9)))[0, 1])
