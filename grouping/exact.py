"""Correlation clustering as a 0/1 program (HiGHS through scipy.optimize.milp).

One variable a pair says whether the two share a group; triangle rows make that transitive; sizes, pairs that stay
apart and a fixed number of groups are further rows. The program is exact where it fits, and says how far from proven
optimal it stopped where time ran out. Larger problems belong to local search; `best_partition` chooses.
"""

# U units (fused tasks), V pairs of units

from collections.abc import Callable
from itertools import combinations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from grouping.links import ROUNDING, Limits
from grouping.local import local_partition
from grouping.partition import Partition, in_order, pair_sum, respects
from grouping.subsets import MAX_SUBSETS, best_subsets, subset_sums

MAX_EXACT = 40
"""Most units the exact program is given."""
MAX_EXACT_LIMITED = 25
"""The same with sizes or links, which make the program much harder."""
_OPTIMAL, _TIME_OUT, _INFEASIBLE = 0, 1, 2


def best_partition(weights: np.ndarray, limits: Limits, *, seed: int, time_limit: float = 30.0) -> Partition:
    """The partition with the largest sum of weights within groups.  [units, units], symmetric

    Exact up to `MAX_EXACT` units (`MAX_EXACT_LIMITED` with limits; `MAX_SUBSETS` with nothing but a fixed number of
    groups, which the program is slow to prove), local search beyond, and whichever is better where the program ran out
    of time. Raises ValueError where no partition keeps the limits.
    """
    num_units = len(weights)
    if limits.num_groups is not None and num_units <= MAX_SUBSETS:
        found = best_subsets(subset_sums(weights), limits)
        if found is None:
            raise no_partition(limits)
        return Partition(in_order(found[0]), pair_sum(weights, found[0]), "exact", gap=0.0)
    most = MAX_EXACT_LIMITED if limits.binding else MAX_EXACT if limits.num_groups is None else MAX_SUBSETS
    if num_units > most:
        return local_partition(weights, limits, seed=seed)
    exact = exact_partition(weights, limits, time_limit=time_limit)
    if exact is not None and exact.gap is not None and exact.gap <= 1e-6:
        return exact
    local = local_partition(weights, limits, seed=seed)
    return local if exact is None or local.objective > exact.objective else exact


def exact_partition(weights: np.ndarray, limits: Limits, *, time_limit: float = 30.0) -> Partition | None:
    """The program's partition, with its gap; None where time ran out before any was found."""
    num_units = len(weights)
    for loads_U, cap in limits.caps:
        for unit in np.flatnonzero(loads_U > cap + ROUNDING):
            raise ValueError(
                f"Unit {unit} costs {loads_U[unit]:g}, and a group may cost {cap:g} in all. "
                "Raise the limit or split the unit."
            )
    if num_units == 1:
        return Partition(np.zeros(1, dtype=int), 0.0, "exact", gap=0.0)
    pairs = list(combinations(range(num_units), 2))
    index = {pair: v for v, pair in enumerate(pairs)}
    counted = limits.num_groups is not None
    num_variables = len(pairs) + (num_units if counted else 0)
    value_V = np.array([weights[pair] for pair in pairs])
    # HiGHS stops within absolute tolerances, so the weights are brought near 1 first.
    scale = max(float(np.abs(value_V).max()), 1e-12)
    upper = np.ones(num_variables)
    if limits.apart_UU is not None:
        upper[: len(pairs)] = [0.0 if limits.apart_UU[pair] else 1.0 for pair in pairs]
    rows = _Rows(num_variables)
    for i, j, k in combinations(range(num_units), 3):
        ij, jk, ik = index[i, j], index[j, k], index[i, k]
        for a, b, c in ((ij, jk, ik), (ij, ik, jk), (ik, jk, ij)):
            rows.at_most({a: 1.0, b: 1.0, c: -1.0}, 1.0)
    for loads_U, cap in limits.caps:
        for i in range(num_units):
            others = {index[min(i, j), max(i, j)]: loads_U[j] for j in range(num_units) if j != i}
            rows.at_most(others, cap - loads_U[i])
    if limits.num_groups is not None:
        _count_groups(rows, num_units, limits.num_groups, lambda i, j: index[i, j])
    result = milp(
        c=np.concatenate([-value_V / scale, np.zeros(num_variables - len(pairs))]),
        integrality=np.ones(num_variables),
        bounds=Bounds(0.0, upper),  # pyright: ignore[reportArgumentType]
        constraints=rows.constraint() if rows.bounds else (),
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    if result.status == _INFEASIBLE:
        raise no_partition(limits)
    if result.x is None:
        return None
    assert result.status in (_OPTIMAL, _TIME_OUT)
    labels = np.arange(num_units)
    for (i, j), together in zip(pairs, result.x[: len(pairs)] > 0.5, strict=True):
        if together:
            labels[j] = min(labels[i], labels[j])
    assert respects(labels, limits)
    gap = 0.0 if result.status == _OPTIMAL else float(result.mip_gap)
    return Partition(in_order(labels), pair_sum(weights, labels), "exact", gap=gap if np.isfinite(gap) else None)


def no_partition(limits: Limits) -> ValueError:
    """The error for limits that contradict each other only all together."""
    groups = "any number of" if limits.num_groups is None else str(limits.num_groups)
    cap = "any size" if limits.max_cost is None else f"at most {limits.max_cost:g} tasks"
    return ValueError(
        f"GroupingConfig: the links cannot be met with {groups} group{'' if limits.num_groups == 1 else 's'} of {cap}. "
        "Allow more groups or larger ones, or drop some must_link or cannot_link pairs."
    )


def _count_groups(rows: "_Rows", num_units: int, num_groups: int, pair: Callable[[int, int], int]) -> None:
    """Makes one extra variable a unit say whether the unit is the first of its group, and fixes their sum."""
    first = num_units * (num_units - 1) // 2
    for j in range(num_units):
        earlier = [pair(i, j) for i in range(j)]
        for v in earlier:
            rows.at_most({first + j: 1.0, v: 1.0}, 1.0)
        rows.at_most({first + j: -1.0, **dict.fromkeys(earlier, -1.0)}, -1.0)
    rows.at_most({first + j: 1.0 for j in range(num_units)}, float(num_groups))
    rows.at_most({first + j: -1.0 for j in range(num_units)}, -float(num_groups))


class _Rows:
    """Sparse rows `coefficients . x <= bound`, collected one by one."""

    def __init__(self, num_variables: int) -> None:
        self.num_variables = num_variables
        self.bounds: list[float] = []
        self.entries: list[tuple[int, int, float]] = []

    def at_most(self, coefficients: dict[int, float], bound: float) -> None:
        row = len(self.bounds)
        self.entries.extend((row, column, value) for column, value in coefficients.items())
        self.bounds.append(float(bound))

    def constraint(self) -> LinearConstraint:
        row, column, value = zip(*self.entries, strict=True)
        shape = (len(self.bounds), self.num_variables)
        matrix = coo_array((value, (row, column)), shape=shape).tocsr()
        return LinearConstraint(matrix, -np.inf, self.bounds)  # pyright: ignore[reportArgumentType]
