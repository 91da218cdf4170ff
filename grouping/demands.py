"""What the user demands of the groups, checked against the tasks before anything is measured.

Needs no NumPy: a client that only reads a job's description checks it as well.
"""

from collections.abc import Sequence

from grouping.config import GroupingConfig


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
    unit_of = {name: [name] for name in task_names}
    for tasks in (*config.must_link, *config.pinned):
        joined = list(dict.fromkeys(name for task in tasks for name in unit_of[task]))
        unit_of |= dict.fromkeys(joined, joined)
    units = list({id(unit): unit for unit in unit_of.values()}.values())
    position = {name: index for index, name in enumerate(task_names)}
    return [sorted(unit, key=position.__getitem__) for unit in units]
