"""The user's demands (`grouping.demands`) as a solver respects them: sizes, and tasks that stay apart.

Tasks that must stay together are fused into one unit before anything is solved, so every solver works on units and
only has to respect sizes and pairs that stay apart. A unit's cost counts all its tasks, also those without a usable
gradient, because they take a place in the group as well.
"""

# U units (fused tasks)

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grouping.config import GroupingConfig

ROUNDING = 1e-9
"""Costs are sums of floats; a cap is not broken by their last digit."""


@dataclass(frozen=True)
class Limits:
    """What a partition of units has to respect."""

    costs_U: np.ndarray
    """What each unit counts towards `max_cost`."""
    max_cost: float | None = None
    apart_UU: np.ndarray | None = None
    """True where two units never share a group; symmetric, diagonal False."""
    num_groups: int | None = None
    sizes_U: np.ndarray | None = None
    """What each unit counts towards `max_size`: its number of tasks."""
    max_size: float | None = None

    @property
    def caps(self) -> list[tuple[np.ndarray, float]]:
        """What every unit counts towards a cap, and the cap."""
        given = ((self.costs_U, self.max_cost), (self.sizes_U, self.max_size))
        return [(loads, cap) for loads, cap in given if loads is not None and cap is not None]

    @property
    def binding(self) -> bool:
        return bool(self.caps) or (self.apart_UU is not None and bool(self.apart_UU.any()))

    def allows(self, units: Iterable[int] | np.ndarray) -> bool:
        """Whether these units may form one group."""
        members = [int(unit) for unit in units]
        if any(float(loads[members].sum()) > cap + ROUNDING for loads, cap in self.caps):
            return False
        return self.apart_UU is None or not bool(self.apart_UU[np.ix_(members, members)].any())


def limits_for(
    config: GroupingConfig, units: Sequence[Collection[str]], costs: Mapping[str, float] | None = None
) -> Limits:
    """The config's demands on these units; a fixed number of groups is held to the units there are."""
    unit_of = {task: unit for unit, tasks in enumerate(units) for task in tasks}
    apart_UU = np.zeros((len(units), len(units)), dtype=bool)
    for a, b in config.cannot_link:
        if a in unit_of and b in unit_of:
            apart_UU[unit_of[a], unit_of[b]] = apart_UU[unit_of[b], unit_of[a]] = True
    for tasks in config.pinned:
        for unit in {unit_of[task] for task in tasks if task in unit_of}:
            apart_UU[unit] = apart_UU[:, unit] = True
    np.fill_diagonal(apart_UU, False)
    return Limits(
        costs_U=_unit_costs(config, units, costs),
        max_cost=config.max_group_cost,
        apart_UU=apart_UU,
        num_groups=None if config.num_groups == "auto" else min(config.num_groups, len(units)),
        sizes_U=np.array([float(len(tasks)) for tasks in units]),
        max_size=None if config.max_group_size is None else float(config.max_group_size),
    )


def _unit_costs(
    config: GroupingConfig, units: Sequence[Collection[str]], costs: Mapping[str, float] | None
) -> np.ndarray:
    cap = config.max_group_cost
    if cap is None:
        return np.zeros(len(units))
    missing = [task for tasks in units for task in tasks if task not in (costs or {})]
    if missing or costs is None:
        raise ValueError(
            f"GroupingConfig: max_group_cost={cap:g}, and no cost is known of {', '.join(map(repr, missing[:3]))}. "
            "Use max_group_size, or give every task's cost."
        )
    sums = [sum(costs[task] for task in tasks) for tasks in units]
    for tasks, cost in zip(units, sums, strict=True):
        if cost > cap + ROUNDING:
            named = " and ".join(f"'{task}'" for task in tasks)
            raise ValueError(
                f"GroupingConfig: {named} cost {cost:g}, and max_group_cost={cap:g} is less. "
                f"Allow at least {cost:g}{', or drop a link' if len(tasks) > 1 else ''}."
            )
    return np.array(sums)
