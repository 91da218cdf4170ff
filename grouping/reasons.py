"""Why a task is where it is, in sentences a user understands.

Every sentence names tasks and gives the numbers it rests on; a number measured with little certainty carries its
standard error. Nothing here decides anything.
"""

# T usable tasks

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from grouping.attribution import task_why
from grouping.config import GroupingConfig
from grouping.decision import Decision
from grouping.measurement import Measurement
from grouping.similarity import Similarity
from grouping.why import TaskWhy, where_sentence

NUM_NEAREST = 5
MAX_TURNED = 500
"""Most tasks whose dendrogram is turned: for 1,000 that took a quarter of the plan."""
GIVEN = "given"
"""The solver of groups that nobody had to look for: edited, arbitrated, joined."""
LOW_RELIABILITY = 0.1
"""Below this a task hardly agrees with itself on other data, and the user is told."""


class Neighbour(BaseModel):
    """Another task, and how similar it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str
    similarity: float
    standard_error: float | None
    low: float | None = None
    high: float | None = None


class TaskReason(BaseModel):
    """Where one task is, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    task: str
    group: str
    nearest: list[Neighbour]
    """The most similar tasks of the job, nearest first."""
    margin: float | None
    """Mean similarity to its own group minus that to the best other group; null alone or without another group."""
    sentence: str
    next_group: str | None = None
    """The best other group, which the margin is against."""
    why: TaskWhy | None = None
    """Where in the prompts the agreement sits, and how it went over the snapshots."""


class PlanGroup(BaseModel):
    """Tasks that train together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    id: str
    tasks: list[str]
    cohesion: float | None
    """Mean similarity of the pairs inside; null with fewer than two measured tasks."""
    reason: str


def explain_tasks(
    names: Sequence[str],
    groups: Mapping[str, list[str]],
    usable: Sequence[str],
    measured: Similarity,
    decision: Decision,
    bad: Mapping[str, str],
    measurement: Measurement,
) -> list[TaskReason]:
    """One reason a task, in the order of `names`."""
    at = {name: index for index, name in enumerate(usable)}
    group_of = {task: group for group, tasks in groups.items() for task in tasks}
    ids = list(groups)
    means_TG = _group_means(groups, at, measured.similarity_TT)
    reasons = []
    for name in names:
        group = group_of[name]
        if name in bad:
            reasons.append(_unmeasured(name, group, groups[group], bad[name], given=decision.solver == GIVEN))
            continue
        partners = [at[task] for task in groups[group] if task != name and task in at]
        nearest = _nearest(at[name], usable, measured)
        margin, other = _margin(means_TG[at[name]], ids.index(group), ids)
        sentence = _task_sentence(name, group, groups[group], at, measured, decision, nearest, margin, other)
        others = [at[task] for task in groups[other] if task in at] if other is not None else []
        why = task_why(
            measurement, measured.reliability_T, at[name], partners, others or [at[near.task] for near in nearest[:1]]
        )
        reasons.append(
            TaskReason(
                task=name,
                group=group,
                nearest=nearest,
                margin=margin,
                sentence=" ".join(filter(None, [sentence, where_sentence(why)])),
                next_group=other,
                why=why,
            )
        )
    return reasons


def explain_unmeasured(
    names: Sequence[str], groups: Mapping[str, list[str]], bad: Mapping[str, str], *, given: bool
) -> list[TaskReason]:
    """The same where no task has a usable gradient."""
    group_of = {task: group for group, tasks in groups.items() for task in tasks}
    return [_unmeasured(name, group_of[name], groups[group_of[name]], bad[name], given=given) for name in names]


def explain_groups(
    groups: Mapping[str, list[str]], usable: Sequence[str], measured: Similarity, bad: Mapping[str, str]
) -> list[PlanGroup]:
    """One sentence a group."""
    at = {name: index for index, name in enumerate(usable)}
    explained = []
    for group, tasks in groups.items():
        inside = [at[task] for task in tasks if task in at]
        outside = [index for index in at.values() if index not in inside]
        cohesion = None
        if len(inside) > 1:
            within = measured.similarity_TT[np.ix_(inside, inside)]
            cohesion = float((within.sum() - len(inside)) / (len(inside) * (len(inside) - 1)))
        if not inside:
            reason = set_aside(tasks, bad)
        elif len(tasks) == 1:
            reason = f"{tasks[0]} trains alone{_nearest_outside(inside, outside, usable, measured)}."
        elif cohesion is None:
            near = _nearest_outside(inside, outside, usable, measured)
            reason = f"Of {_names(tasks)} only {usable[inside[0]]} could be compared{near}."
        else:
            reason = (
                f"{_names(tasks)} agree with each other at {cohesion:.2f} on average"
                f"{_nearest_outside(inside, outside, usable, measured)}."
            )
        explained.append(PlanGroup(id=group, tasks=list(tasks), cohesion=cohesion, reason=reason))
    return explained


def set_aside(tasks: Sequence[str], bad: Mapping[str, str]) -> str:
    """A sentence on a group of which no task has a usable gradient."""
    if len(tasks) == 1:
        return f"{tasks[0]} is set aside: {bad[tasks[0]]}."
    reasons = "; ".join(f"{task}: {bad[task]}" for task in tasks)
    return f"{_names(tasks)} train together, and nothing is known of their agreement ({reasons})."


def summarise(
    groups: Mapping[str, list[str]],
    usable: Sequence[str],
    decision: Decision,
    bad: Mapping[str, str],
    config: GroupingConfig,
) -> str:
    """The whole plan in a few plain sentences."""
    sentences = [f"{_count(len(usable) + len(bad), 'task')} in {_count(len(groups), 'group')}."]
    if config.num_groups != "auto":
        sentences.append(f"The number of groups was fixed at {config.num_groups}.")
        found = len(np.unique(decision.labels_T))
        if found < config.num_groups:
            sentences.append(f"Only {_count(found, 'group')} could be formed of the tasks with a usable gradient.")
    if decision.verdict is not None and len(usable) > 1:
        sentences.append(decision.verdict.sentence)
        if decision.verdict.kind in ("too_noisy", "one_group") and len(groups) == 1:
            sentences.append("So all train together.")
    return " ".join([*sentences, *_told(usable, decision, bad)])


def summarise_given(said: str, usable: Sequence[str], decision: Decision, bad: Mapping[str, str]) -> str:
    """What was said of groups that were given, and then what the gradients say of them."""
    sentences = [said]
    if decision.verdict is not None and len(usable) > 1:
        sentences.append(f"Of the gradients alone: {decision.verdict.sentence}")
    return " ".join([*sentences, *_told(usable, decision, bad)])


def leaf_order(usable: Sequence[str], similarity_TT: np.ndarray) -> list[str]:
    """The tasks as leaves of a dendrogram (average linkage), up to `MAX_TURNED` turned so that neighbours are alike."""
    if len(usable) < 3:
        return list(usable)
    distance = np.clip(1.0 - similarity_TT, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    tree = linkage(condensed, "average")
    leaves = leaves_list(optimal_leaf_ordering(tree, condensed) if len(usable) <= MAX_TURNED else tree)
    return [usable[int(leaf)] for leaf in leaves]


def _told(usable: Sequence[str], decision: Decision, bad: Mapping[str, str]) -> list[str]:
    """The objective, and who was not compared."""
    sentences = []
    if len(usable) > 1:
        worth = decision.objective
        sentences.append(
            f"Objective {worth['chosen']:.2f}, against {worth['one_group']:.2f} for one group of all tasks and "
            f"{worth['all_alone']:.2f} for every task alone (solver: {decision.solver})."
        )
    if bad:
        sentences.append(f"Not compared with the others, for want of a usable gradient: {_names(sorted(bad))}.")
    return sentences


def _unmeasured(name: str, group: str, tasks: Sequence[str], reason: str, *, given: bool) -> TaskReason:
    partners = [task for task in tasks if task != name]
    if not partners:
        place = "trains alone"
    elif given:
        place = f"is in {group} with {_names(partners)}, as given"
    else:
        place = f"is in {group} only because must_link ties it to {_names(partners)}"
    sentence = f"{name} {place}: {reason}, so its similarity to other tasks is unknown."
    return TaskReason(task=name, group=group, nearest=[], margin=None, sentence=sentence)


def _nearest(task: int, usable: Sequence[str], measured: Similarity) -> list[Neighbour]:
    order = [other for other in np.argsort(-measured.similarity_TT[task], kind="stable") if other != task]
    return [_neighbour(task, int(other), usable, measured) for other in order[:NUM_NEAREST]]


def _neighbour(task: int, other: int, usable: Sequence[str], measured: Similarity) -> Neighbour:
    value = float(measured.similarity_TT[task, other])
    if measured.standard_error_TT is None:
        return Neighbour(task=usable[other], similarity=value, standard_error=None)
    error = float(measured.standard_error_TT[task, other])
    reach = measured.quantile * error
    return Neighbour(
        task=usable[other],
        similarity=value,
        standard_error=error,
        low=max(value - reach, -1.0),
        high=min(value + reach, 1.0),
    )


def _group_means(groups: Mapping[str, list[str]], at: Mapping[str, int], similarity_TT: np.ndarray) -> np.ndarray:
    """Mean similarity of every task to every group, itself left out; nan where nobody else is left.  -> [T, G]"""
    members_TG = np.zeros((len(at), len(groups)))
    for g, tasks in enumerate(groups.values()):
        members_TG[[at[task] for task in tasks if task in at], g] = 1.0
    others_TT = similarity_TT - np.diag(np.diagonal(similarity_TT))
    count_TG = members_TG.sum(axis=0) - members_TG
    return np.divide(others_TT @ members_TG, count_TG, out=np.full_like(count_TG, np.nan), where=count_TG > 0)


def _margin(means_G: np.ndarray, own: int, ids: Sequence[str]) -> tuple[float | None, str | None]:
    """How much better a task fits its own group than the best other one, and that one's id."""
    rivals_G = np.where(np.isnan(means_G), -np.inf, means_G)
    rivals_G[own] = -np.inf
    best = int(np.argmax(rivals_G))
    if np.isnan(means_G[own]) or rivals_G[best] == -np.inf:
        return None, None
    return float(means_G[own] - means_G[best]), ids[best]


def _task_sentence(
    name: str,
    group: str,
    tasks: Sequence[str],
    at: Mapping[str, int],
    measured: Similarity,
    decision: Decision,
    nearest: Sequence[Neighbour],
    margin: float | None,
    other: str | None,
) -> str:
    partners = [task for task in tasks if task != name and task in at]
    row = measured.similarity_TT[at[name]]
    silent = [task for task in tasks if task != name and task not in at]
    alone = f"trains with {_names(silent)}, not comparable with it" if silent else "trains alone"
    if not nearest:
        sentence = f"{name} {alone}: no other task could be compared with it."
    elif not partners:
        sentence = f"{name} {alone}: the nearest task is {_said(nearest[0])}"
        sentence += f"; pairs above {decision.threshold:.2f} speak for training together in this job"
        apart = "the groups were given so" if decision.solver == GIVEN else "the clustering of all tasks sets it apart"
        sentence += f", but {apart}." if nearest[0].similarity > decision.threshold else "."
    else:
        mean = float(np.mean([row[at[task]] for task in partners]))
        sentence = f"{name} trains with {_names(partners)}: similarity {mean:.2f}"
        sentence += " on average" if len(partners) > 1 else ""
        if len(partners) + 1 < len(at):
            outside = row.copy()
            outside[[at[task] for task in tasks if task in at]] = -np.inf
            said = _said(_neighbour(at[name], int(np.argmax(outside)), list(at), measured))
            sentence += f", while the nearest task outside is {said}"
        sentence += "."
        if margin is not None and margin >= 0:
            sentence += f" It fits {group} better than any other group by {margin:.2f}."
        elif margin is not None:
            sentence += f" By similarity alone it would fit {other} better by {-margin:.2f}."
    if measured.reliability_T is not None and measured.reliability_T[at[name]] < LOW_RELIABILITY:
        sentence += (
            f" Its gradient is noisy (reliability {measured.reliability_T[at[name]]:.2f}): "
            "more snapshots or microbatches would make this firmer."
        )
    return sentence


def _nearest_outside(inside: Sequence[int], outside: Sequence[int], usable: Sequence[str], measured: Similarity) -> str:
    if not outside:
        return ""
    block = measured.similarity_TT[np.ix_(list(inside), list(outside))]
    a, b = np.unravel_index(int(np.argmax(block)), block.shape)
    neighbour = _neighbour(inside[int(a)], outside[int(b)], usable, measured)
    toward = "" if len(inside) == 1 else f" (to {usable[inside[int(a)]]})"
    return f"; the nearest task outside is {_said(neighbour)}{toward}"


def _said(neighbour: Neighbour) -> str:
    error = "" if neighbour.standard_error is None else f" ± {neighbour.standard_error:.2f}"
    return f"{neighbour.task} at {neighbour.similarity:.2f}{error}"


def _names(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
