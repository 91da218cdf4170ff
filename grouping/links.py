"""What the user demands of the groups: sizes, tasks that stay together, tasks that stay apart.

Tasks that must stay together are fused into one unit before anything is solved, so every solver works on units and
only has to respect sizes and pairs that stay apart. A unit's cost counts all its tasks, also those without a usable
gradient, because they take a place in the group as well.
"""

# U units (fused tasks)

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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


def check_links(config: GroupingConfig, task_names: Sequence[str]) -> None:
    """Refuses demands that no grouping of these tasks could meet."""
    known = set(task_names)
    fields = (("must_link", config.must_link), ("cannot_link", config.cannot_link), ("pinned", config.pinned))
    for field, links in fields:
        for link in links:
            for name in link:
                if name not in known:
                    raise ValueError(
                        f"GroupingConfig: {field} names '{name}', which is no task of this job. "
                        f"Its tasks are {', '.join(repr(task) for task in sorted(known))}."
                    )
            if field != "pinned" and link[0] == link[1]:
                raise ValueError(
                    f"GroupingConfig: {field} pairs '{link[0]}' with itself. Name two different tasks, or drop it."
                )
    _check_pinned(config)
    if config.num_groups != "auto" and config.num_groups > len(known):
        raise ValueError(
            f"GroupingConfig: num_groups={config.num_groups} exceeds the {len(known)} tasks of this job. "
            f"Use at most {len(known)}, or `auto`."
        )
    units = fuse(config, task_names)
    unit_of = {task: unit for unit, tasks in enumerate(units) for task in tasks}
    for a, b in config.cannot_link:
        if unit_of[a] == unit_of[b]:
            together = ", ".join(f"'{task}'" for task in units[unit_of[a]])
            raise ValueError(
                f"GroupingConfig: cannot_link parts '{a}' and '{b}', but must_link keeps {together} together. "
                "Drop one of the links."
            )
    cap = config.max_group_size
    largest = max(units, key=len)
    if cap is not None and len(largest) > cap:
        together = ", ".join(f"'{task}'" for task in largest)
        raise ValueError(
            f"GroupingConfig: must_link keeps {len(largest)} tasks together ({together}), "
            f"but max_group_size={cap}. Allow at least {len(largest)}, or drop a link."
        )
    if config.num_groups != "auto" and cap is not None and config.num_groups * cap < len(known):
        needed = -(-len(known) // cap)
        raise ValueError(
            f"GroupingConfig: {config.num_groups} groups of at most {cap} tasks hold {config.num_groups * cap} of the "
            f"{len(known)} tasks of this job. Use num_groups of at least {needed}, or a larger max_group_size."
        )
    if config.num_groups != "auto" and config.num_groups > len(units):
        raise ValueError(
            f"GroupingConfig: num_groups={config.num_groups}, but must_link leaves only {len(units)} "
            f"separable units of tasks. Use at most {len(units)}, or drop a link."
        )


def _check_pinned(config: GroupingConfig) -> None:
    """A pinned group is a group as it is, so no task stands in two of them and no must_link leads out of one."""
    pinned_in: dict[str, int] = {}
    for number, tasks in enumerate(config.pinned):
        for task in tasks:
            if task in pinned_in:
                raise ValueError(f"GroupingConfig: pinned names '{task}' more than once. Keep it in one pinned group.")
            pinned_in[task] = number
    for a, b in config.must_link:
        if pinned_in.get(a) != pinned_in.get(b):
            raise ValueError(
                f"GroupingConfig: must_link joins '{a}' and '{b}', but a pinned group holds only one of them. "
                "Drop the link, or name both in the pinned group."
            )


def fuse(config: GroupingConfig, task_names: Sequence[str]) -> list[list[str]]:
    """The tasks in units that must_link or pinned keeps together, each in the order of `task_names`."""
    position = {name: index for index, name in enumerate(task_names)}
    links = [*config.must_link, *((tasks[0], task) for tasks in config.pinned for task in tasks[1:])]
    rows = [position[a] for a, _ in links]
    columns = [position[b] for _, b in links]
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(position), len(position)))
    num_units, unit_T = connected_components(graph, directed=False)
    units: list[list[str]] = [[] for _ in range(num_units)]
    for name, unit in zip(task_names, unit_T, strict=True):
        units[unit].append(name)
    return units


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
