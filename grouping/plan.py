"""From signatures to a plan: who trains with whom, and why.

The steps, in order: set aside tasks without a usable gradient; measure similarities; look for structure and a
threshold; partition; compare with one group for all and with everybody alone; ask a second solver; explain. Tasks are
sorted by name first, so the same measurements give the same plan in whatever order they arrive. `explained` puts any
groups of measured tasks in the same form; `grouping/given.py` does so for groups that nobody had to look for.
"""

# S snapshots, R microbatches, T tasks, P parameters of the generated prompts; U units (fused tasks)

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import adjusted_rand_score

from grouping.affinities import affinity
from grouping.config import GroupingConfig
from grouping.decision import Decision, decide
from grouping.demands import check_links, fuse
from grouping.group_ids import group_ids
from grouping.measurement import Measurement, TaskFacts, check_names, measure
from grouping.outline import Origin, PlanOutline
from grouping.partition import Partition
from grouping.reasons import (
    PlanGroup,
    TaskReason,
    explain_groups,
    explain_tasks,
    explain_unmeasured,
    leaf_order,
    set_aside,
    summarise,
)
from grouping.similarity import Similarity
from grouping.verdict import Verdict


class SecondOpinion(BaseModel):
    """What another solver says about the same measurements."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    solver: str
    """`exact`, `local search` or `spectral`."""
    groups: list[list[str]]
    """Its groups, in the plan's order; tasks without a usable gradient are left out."""
    agreement: float
    """Adjusted Rand index between the two partitions: 1 equal, about 0 unrelated."""
    objective: float
    """Its value of the plan's objective."""
    gap: float | None
    """Relative distance to the proven optimum (0 = proven best); null for a solver that proves nothing."""

    @classmethod
    def of(cls, second: Partition, chosen_T: np.ndarray, usable: Sequence[str]) -> "SecondOpinion":
        """That partition of the usable tasks beside the chosen one."""
        groups = [
            [usable[int(t)] for t in np.flatnonzero(second.labels == label)] for label in np.unique(second.labels)
        ]
        return cls(
            solver=second.solver,
            groups=sorted(groups),
            agreement=float(adjusted_rand_score(chosen_T, second.labels)),
            objective=second.objective,
            gap=second.gap,
        )


class Plan(BaseModel):
    """The groups of a job, with the measurements behind them and the reasons. Matrices follow `task_names`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    origin: Origin
    """Where the groups come from."""
    summary: str
    """The outcome in plain words."""
    task_names: list[str]
    num_groups: int
    groups: list[PlanGroup]
    tasks: list[TaskReason]
    """One a task, in the order of `task_names`."""
    order: list[str]
    """The tasks as the leaves of a dendrogram: similar ones side by side."""
    similarity: list[list[float | None]] | None
    """Reported similarity in [-1, 1]; null for tasks without a usable gradient."""
    standard_error: list[list[float | None]] | None
    cosine: list[list[float | None]] | None
    """Plain mean cosine, for comparison."""
    reliability: list[float | None] | None
    """Agreement of each task with itself on other data; low means noisy."""
    threshold: float | None
    """Similarity above which a pair speaks for training together; learned from the job's own pairs."""
    objective: dict[str, float]
    """The same objective for `chosen`, `one_group` and `all_alone`; larger is better."""
    second_opinion: SecondOpinion | None
    excluded: dict[str, str]
    """Tasks without a usable gradient, with the reason."""
    settings: GroupingConfig
    verdict: Verdict | None = None
    """Whether the gradients show groups, and whether they can; null where nothing could be compared."""
    solver: str | None = None
    """What found the groups: `spectral`, `exact`, `local search`, `subsets`, `average linkage`, `one group`, ..., or
    `given` for groups that nobody had to look for."""
    gap: float | None = None
    """Relative distance to the proven optimum of the objective; null where nothing was proven."""

    def outline(self) -> PlanOutline:
        """The plan in short."""
        return PlanOutline(
            origin=self.origin,
            summary=self.summary,
            groups={group.id: group.tasks for group in self.groups},
            verdict=None if self.verdict is None else self.verdict.kind,
            solver=self.solver,
            objective=self.objective,
            settings=self.settings,
        )


def make_plan(
    gradients: np.ndarray,
    task_names: Sequence[str],
    config: GroupingConfig,
    *,
    facts: TaskFacts | None = None,
    costs: Mapping[str, float] | None = None,
    previous: Mapping[str, Sequence[str]] | None = None,
) -> Plan:
    """The plan for these signatures.  [snapshots, microbatches, tasks, params]

    Raises ValueError where shapes and names do not fit, or where the config demands what cannot be.
    """
    return plan_from(measure(gradients, task_names, facts), config, costs=costs, previous=previous)


def plan_from(
    measurement: Measurement,
    config: GroupingConfig,
    *,
    costs: Mapping[str, float] | None = None,
    previous: Mapping[str, Sequence[str]] | None = None,
    second_opinion: bool = True,
) -> Plan:
    """The plan from what was measured before: the way of every what-if.

    `costs` per task are for `max_group_cost`; groups keep the ids of the `previous` ones they share most tasks with.
    Without `second_opinion` a plan of 200 tasks takes well under a second; the exact program may take thirty.
    """
    names, bad, usable = list(measurement.task_names), measurement.excluded, list(measurement.usable)
    check_links(config, names)
    if not usable:
        summary = "No task has a usable gradient, so nothing could be measured and every task trains alone."
        return unmeasured(measurement, _name_groups([], bad), config, origin="gradients", summary=summary)
    measured = affinity(measurement, config.similarity, seed=config.seed)
    # Fused over all tasks: a link may run through a task without a gradient, which then joins its partners' group.
    units = [unit for unit in fuse(config, sorted(names)) if any(name in usable for name in unit)]
    decision = decide(measurement, measured, units, config, costs, second_opinion=second_opinion)
    groups = _name_groups(
        [[name for unit in members for name in unit] for members in decision.groups(units)], bad, previous
    )
    return explained(
        measurement,
        groups,
        measured,
        decision,
        config,
        origin="gradients",
        summary=summarise(groups, usable, decision, bad, config),
    )


def explained(
    measurement: Measurement,
    groups: Mapping[str, list[str]],
    measured: Similarity,
    decision: Decision,
    config: GroupingConfig,
    *,
    origin: Origin,
    summary: str,
) -> Plan:
    """These groups of all tasks, with the numbers and reasons that the measurement has for them."""
    names, bad, usable = list(measurement.task_names), measurement.excluded, list(measurement.usable)
    second = decision.second
    return Plan(
        origin=origin,
        summary=summary,
        task_names=names,
        num_groups=len(groups),
        groups=explain_groups(groups, usable, measured, bad),
        tasks=explain_tasks(names, groups, usable, measured, decision, bad, measurement),
        order=[*leaf_order(usable, measured.similarity_TT), *sorted(bad)],
        similarity=_matrix(measured.similarity_TT, usable, names),
        standard_error=_matrix(measured.standard_error_TT, usable, names),
        cosine=_matrix(measured.cosine_TT, usable, names),
        reliability=_row(measured, usable, names),
        threshold=decision.threshold,
        objective=decision.objective,
        second_opinion=None if second is None else SecondOpinion.of(second, decision.labels_T, usable),
        excluded={name: bad[name] for name in names if name in bad},
        settings=config,
        verdict=decision.verdict,
        solver=decision.solver,
        gap=decision.gap,
    )


def unmeasured(
    measurement: Measurement, groups: Mapping[str, list[str]], config: GroupingConfig, *, origin: Origin, summary: str
) -> Plan:
    """These groups where no task has a usable gradient: an honest plan without numbers."""
    bad = measurement.excluded
    tasks = explain_unmeasured(measurement.task_names, groups, bad, given=origin != "gradients")
    reasons = [
        PlanGroup(id=group, tasks=list(members), cohesion=None, reason=set_aside(members, bad))
        for group, members in groups.items()
    ]
    changes = {"origin": origin, "summary": summary, "tasks": tasks, "groups": reasons, "num_groups": len(groups)}
    plan = trivial_plan(measurement.task_names, "alone")
    return plan.model_copy(update={**changes, "excluded": bad, "settings": config})


def trivial_plan(task_names: Sequence[str], origin: Literal["alone", "all"]) -> Plan:
    """The plan of a job that asked for no grouping: every task alone, or all in one group."""
    names = list(task_names)
    check_names(names)
    members = [sorted(names)] if origin == "all" else [[name] for name in sorted(names)]
    groups = {f"g{number}": tasks for number, tasks in enumerate(members, start=1)}
    group_of = {task: group for group, tasks in groups.items() for task in tasks}
    words = "trains with all other tasks" if origin == "all" and len(names) > 1 else "trains alone"
    reason = "The job asked for one group of all tasks." if origin == "all" else "The job asked for every task alone."
    return Plan(
        origin=origin,
        summary=reason,
        task_names=names,
        num_groups=len(groups),
        groups=[PlanGroup(id=group, tasks=tasks, cohesion=None, reason=reason) for group, tasks in groups.items()],
        tasks=[
            TaskReason(
                task=name,
                group=group_of[name],
                nearest=[],
                margin=None,
                sentence=f"{name} {words}, as the job asked; nothing was measured.",
            )
            for name in names
        ],
        order=sorted(names),
        similarity=None,
        standard_error=None,
        cosine=None,
        reliability=None,
        threshold=None,
        objective={},
        second_opinion=None,
        excluded={},
        settings=GroupingConfig(),
    )


def _name_groups(
    members: list[list[str]], bad: dict[str, str], previous: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Group ids in the order of each group's first task name; leftover unusable tasks each get a group."""
    seated = {name for tasks in members for name in tasks}
    complete = sorted([sorted(tasks) for tasks in members] + [[name] for name in bad if name not in seated])
    return dict(zip(group_ids(complete, previous), complete, strict=True))


def _matrix(values: np.ndarray | None, usable: list[str], names: list[str]) -> list[list[float | None]] | None:
    if values is None:
        return None
    at = {name: index for index, name in enumerate(usable)}
    rows = values.tolist()
    places = [at.get(name) for name in names]
    return [[None if a is None or b is None else rows[a][b] for b in places] for a in places]


def _row(measured: Similarity, usable: list[str], names: list[str]) -> list[float | None] | None:
    if measured.reliability_T is None:
        return None
    at = {name: index for index, name in enumerate(usable)}
    return [float(measured.reliability_T[at[name]]) if name in at else None for name in names]
