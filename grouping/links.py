"""What the user demands of the groups: sizes, tasks that stay together, tasks that stay apart.

Tasks that must stay together are fused into one unit before anything is solved, so every solver works on units and
only has to respect sizes and pairs that stay apart. A unit's cost counts all its tasks, also those without a usable
gradient, because they take a place in the group as well.
"""

# U units (fused tasks)

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from grouping.config import GroupingConfig


@dataclass(frozen=True)
class Limits:
    """What a partition of units has to respect."""

    costs_U: np.ndarray
    """What each unit counts towards `max_cost`: its number of tasks."""
    max_cost: float | None = None
    apart_UU: np.ndarray | None = None
    """True where two units never share a group; symmetric, diagonal False."""
    num_groups: int | None = None

    @property
    def binding(self) -> bool:
        return self.max_cost is not None or (self.apart_UU is not None and bool(self.apart_UU.any()))

    def allows(self, units: Iterable[int] | np.ndarray) -> bool:
        """Whether these units may form one group."""
        members = [int(unit) for unit in units]
        if self.max_cost is not None and float(self.costs_U[members].sum()) > self.max_cost:
            return False
        return self.apart_UU is None or not bool(self.apart_UU[np.ix_(members, members)].any())


def check_links(config: GroupingConfig, task_names: Sequence[str]) -> None:
    """Refuses demands that no grouping of these tasks could meet."""
    known = set(task_names)
    for field, links in (("must_link", config.must_link), ("cannot_link", config.cannot_link)):
        for a, b in links:
            for name in (a, b):
                if name not in known:
                    raise ValueError(
                        f"GroupingConfig: {field} names '{name}', which is no task of this job. "
                        f"Its tasks are {', '.join(repr(task) for task in sorted(known))}."
                    )
            if a == b:
                raise ValueError(
                    f"GroupingConfig: {field} pairs '{a}' with itself. Name two different tasks, or drop it."
                )
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


def fuse(config: GroupingConfig, task_names: Sequence[str]) -> list[list[str]]:
    """The tasks in units that must_link keeps together, each in the order of `task_names`."""
    position = {name: index for index, name in enumerate(task_names)}
    rows = [position[a] for a, _ in config.must_link]
    columns = [position[b] for _, b in config.must_link]
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(position), len(position)))
    num_units, unit_T = connected_components(graph, directed=False)
    units: list[list[str]] = [[] for _ in range(num_units)]
    for name, unit in zip(task_names, unit_T, strict=True):
        units[unit].append(name)
    return units


def limits_for(config: GroupingConfig, units: Sequence[Collection[str]]) -> Limits:
    """The config's demands on these units; a fixed number of groups is held to the units there are."""
    unit_of = {task: unit for unit, tasks in enumerate(units) for task in tasks}
    apart_UU = np.zeros((len(units), len(units)), dtype=bool)
    for a, b in config.cannot_link:
        if a in unit_of and b in unit_of:
            apart_UU[unit_of[a], unit_of[b]] = apart_UU[unit_of[b], unit_of[a]] = True
    return Limits(
        costs_U=np.array([float(len(tasks)) for tasks in units]),
        max_cost=None if config.max_group_size is None else float(config.max_group_size),
        apart_UU=apart_UU,
        num_groups=None if config.num_groups == "auto" else min(config.num_groups, len(units)),
    )
