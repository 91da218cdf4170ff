"""A plan for groups that were given: by a person, by short training runs, or by new tasks joining a finished job.

Nothing is sought here. The groups are held against the same measurements, the same objective and the same limits as
the ones a solver finds, so they can be compared and explained like any other plan.
"""

# T usable tasks

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from grouping.affinities import affinity
from grouping.config import GroupingConfig
from grouping.decision import Decision, decide, pair_weights
from grouping.demands import check_links
from grouping.links import ROUNDING
from grouping.measurement import Measurement
from grouping.outline import Origin
from grouping.paper import mean_score
from grouping.partition import pair_sum
from grouping.plan import Plan, explained, unmeasured
from grouping.reasons import GIVEN, summarise_given
from grouping.similarity import Similarity

_ID = re.compile(r"g[1-9][0-9]{0,8}")


def plan_of_groups(
    measurement: Measurement,
    groups: Mapping[str, Sequence[str]],
    config: GroupingConfig,
    *,
    origin: Origin,
    summary: str,
    costs: Mapping[str, float] | None = None,
) -> Plan:
    """The plan that these groups are; ids stay as given, `summary` opens the plan's own.

    `num_groups` says how many groups a solver looks for: given groups may be more or fewer, and then the plan's
    settings say `auto`.  Raises ValueError where the groups are no exact cover of the tasks, or break a limit or link.
    """
    names = list(measurement.task_names)
    check_groups(groups, names)
    if config.num_groups not in ("auto", len(groups)):
        config = config.model_copy(update={"num_groups": "auto"})
    check_links(config, names)
    check_limits(groups, config, costs)
    members = {group: sorted(tasks) for group, tasks in groups.items()}
    if not measurement.usable:
        said = f"{summary} No task has a usable gradient, so nothing could be measured."
        return unmeasured(measurement, members, config, origin=origin, summary=said)
    measured = affinity(measurement, config.similarity, seed=config.seed)
    decision = judge(measurement, measured, labels_of(members, measurement.usable), config)
    said = summarise_given(summary, measurement.usable, decision, measurement.excluded)
    return explained(measurement, members, measured, decision, config, origin=origin, summary=said)


def judge(measurement: Measurement, measured: Similarity, labels_T: np.ndarray, config: GroupingConfig) -> Decision:
    """What a decision for these labels would say: objective, threshold and verdict are those of the gradients."""
    free = GroupingConfig(similarity=config.similarity, seed=config.seed)
    said = decide(measurement, measured, [[name] for name in measurement.usable], free, second_opinion=False)
    objective = {**said.objective, "chosen": worth(measured, labels_T, said.threshold, config.similarity)}
    return replace(said, labels_U=labels_T, labels_T=labels_T, solver=GIVEN, gap=None, objective=objective)


def worth(measured: Similarity, labels_T: np.ndarray, threshold: float, similarity: str) -> float:
    """The objective of a plan with that similarity: correlation clustering's sum, or the paper's score."""
    if similarity != "cross_fit":
        return mean_score(measured.similarity_TT, labels_T)
    return pair_sum(pair_weights(measured, threshold), labels_T)


def labels_of(groups: Mapping[str, Sequence[str]], usable: Sequence[str]) -> np.ndarray:
    """The number of each usable task's group.  -> [T]"""
    number_of = {task: number for number, tasks in enumerate(groups.values()) for task in tasks}
    return np.array([number_of[task] for task in usable], dtype=int)


def check_groups(groups: Mapping[str, Sequence[str]], task_names: Sequence[str]) -> None:
    """Refuses groups in which not every task stands exactly once, and ids that are not like g1."""
    known, seen = set(task_names), {}
    for group, tasks in groups.items():
        if not _ID.fullmatch(group):
            raise ValueError(f"Groups: {group!r:.40} is no id of a group. Call them g1, g2, ...")
        if not tasks:
            raise ValueError(f"Groups: {group} holds no task. Name its tasks, or drop it.")
        for task in tasks:
            if task not in known:
                raise ValueError(
                    f"Groups: {group} names '{task}', which is no task of this job. "
                    f"Its tasks are {', '.join(repr(name) for name in sorted(known))}."
                )
            if task in seen:
                raise ValueError(f"Groups: '{task}' stands in {seen[task]} and again in {group}. Name it once.")
            seen[task] = group
    if missing := [name for name in task_names if name not in seen]:
        named = ", ".join(repr(name) for name in missing)
        raise ValueError(f"Groups: no group holds {named}. Put every task into exactly one group.")


def check_limits(
    groups: Mapping[str, Sequence[str]], config: GroupingConfig, costs: Mapping[str, float] | None
) -> None:
    group_of = {task: group for group, tasks in groups.items() for task in tasks}
    for a, b in config.must_link:
        if group_of[a] != group_of[b]:
            raise ValueError(
                f"Groups: '{a}' is in {group_of[a]} and '{b}' in {group_of[b]}, but must_link keeps them together. "
                "Move one of them, or drop the link."
            )
    for a, b in config.cannot_link:
        if group_of[a] == group_of[b]:
            raise ValueError(
                f"Groups: {group_of[a]} holds '{a}' and '{b}', but cannot_link parts them. "
                "Move one of them, or drop the link."
            )
    for pinned in config.pinned:
        group = group_of[pinned[0]]
        if sorted(groups[group]) != sorted(pinned):
            raise ValueError(
                f"Groups: {group} holds {', '.join(groups[group])}, but pinned keeps {', '.join(pinned)} as a group "
                "of their own. Leave that group as it is, or drop it from pinned."
            )
    size, cost = config.max_group_size, config.max_group_cost
    for group, tasks in groups.items():
        if size is not None and len(tasks) > size:
            raise ValueError(
                f"Groups: {group} holds {len(tasks)} tasks, and max_group_size={size}. "
                "Move some of them, or allow more."
            )
        if cost is None:
            continue
        if missing := [task for task in tasks if task not in (costs or {})]:
            raise ValueError(
                f"Groups: max_group_cost={cost:g}, and no cost is known of {', '.join(map(repr, missing))}. "
                "Give every task's cost, or drop the limit."
            )
        total = sum((costs or {})[task] for task in tasks)
        if total > cost + ROUNDING:
            raise ValueError(
                f"Groups: the tasks of {group} cost {total:g}, and max_group_cost={cost:g}. "
                "Move some of them, or allow more."
            )
