"""Two plans of one job side by side: who moves, who gains or loses which partners, and what it is worth."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from grouping.affinities import affinity
from grouping.given import judge, labels_of, worth
from grouping.measurement import Measurement
from grouping.plan import Plan

NUM_NAMED = 5
"""Most moves that the sentence names."""


class Move(BaseModel):
    """A task that is not in the group of the second plan that continues its group of the first."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: str
    first_group: str
    second_group: str
    gained: list[str]
    """Tasks it trains with in the second plan only."""
    lost: list[str]
    """Tasks it trained with in the first plan only."""


class Comparison(BaseModel):
    """How the second plan differs from the first."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    rand_index: float
    """Adjusted Rand index of the two partitions: 1 equal, about 0 unrelated."""
    moved: list[Move]
    """By task. Groups are matched by the tasks they share, so another id alone moves nobody."""
    first_objective: float | None
    """The objective of the first plan; null where no task has a usable gradient."""
    second_objective: float | None
    """The second plan's value of the same objective, under the first plan's settings."""
    sentence: str


def compare(measurement: Measurement, first: Plan, second: Plan) -> Comparison:
    """Both plans on the same measurements; ValueError where they are not of the tasks that were measured."""
    names = sorted(measurement.task_names)
    for plan, which in ((first, "first"), (second, "second")):
        if sorted(plan.task_names) != names:
            raise ValueError(
                f"The {which} plan is of the tasks {', '.join(sorted(plan.task_names))}, and measured were "
                f"{', '.join(names)}. Compare two plans of one job."
            )
    before, after = first.outline().groups, second.outline().groups
    rand = float(adjusted_rand_score(labels_of(before, names), labels_of(after, names)))
    moved = _moves(before, after)
    values = _objectives(measurement, first, before, after)
    return Comparison(
        rand_index=rand,
        moved=moved,
        first_objective=values[0],
        second_objective=values[1],
        sentence=_sentence(moved, len(names), values, rand),
    )


def _objectives(
    measurement: Measurement, plan: Plan, before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> tuple[float | None, float | None]:
    if not measurement.usable:
        return None, None
    config = plan.settings
    measured = affinity(measurement, config.similarity, seed=config.seed)
    labels_T = labels_of(before, measurement.usable)
    decision = judge(measurement, measured, labels_T, config)
    other = worth(measured, labels_of(after, measurement.usable), decision.threshold, config.similarity)
    return decision.objective["chosen"], other


def _moves(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> list[Move]:
    old, new = list(before), list(after)
    shared = np.array([[len(set(before[a]) & set(after[b])) for b in new] for a in old])
    # Of equal matches the one that keeps the id.
    same = np.array([[a == b for b in new] for a in old])
    rows, columns = linear_sum_assignment(shared + same / (len(old) + 1), maximize=True)
    heir = {old[int(row)]: new[int(column)] for row, column in zip(rows, columns, strict=True)}
    was = {task: group for group, tasks in before.items() for task in tasks}
    moves = []
    for group, tasks in after.items():
        for task in tasks:
            if heir.get(was[task]) != group:
                then, now = set(before[was[task]]), set(tasks)
                moves.append(
                    Move(
                        task=task,
                        first_group=was[task],
                        second_group=group,
                        gained=sorted(now - then),
                        lost=sorted(then - now),
                    )
                )
    return sorted(moves, key=lambda move: move.task)


def _sentence(moved: Sequence[Move], num_tasks: int, values: tuple[float | None, float | None], rand: float) -> str:
    if not moved:
        return "Both plans have the same groups."
    named = ", ".join(f"{move.task} (from {move.first_group} to {move.second_group})" for move in moved[:NUM_NAMED])
    more = f" and {len(moved) - NUM_NAMED} more" if len(moved) > NUM_NAMED else ""
    verb = "moves" if len(moved) == 1 else "move"
    sentence = f"{len(moved)} of {num_tasks} tasks {verb}: {named}{more}; adjusted Rand index {rand:.2f}."
    first, second = values
    if first is not None and second is not None:
        sentence += f" By the first plan's objective the second is worth {second:.2f} against {first:.2f}."
    return sentence
