"""Whether a plan's groups are worth it, decided by short training runs and not by similarities.

First every group of the plan, one group of all tasks and every task alone are tested.  Then what loses moves, leaves or
dissolves, and the groups that this makes are tested, too.  Only what was tested can be chosen, and one group of all
tasks is, unless the others surely do no worse on the same images.  Nothing here trains: the scores are given.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from grouping.config import GroupingConfig
from grouping.gains import Gain
from grouping.group_ids import group_ids
from grouping.prediction import PredictivePower, fit
from grouping.revision import Action, Revision, in_words, limits_allow, points, revise, units_of
from grouping.trials import Composition, Partition, Trials, first_round

Similarities = Mapping[str, Mapping[str, float]]
"""Task -> other task -> similarity; a task without a usable gradient has none."""


class TestedGroup(BaseModel):
    """A group that was trained for a short while."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    __test__ = False  # no test of ours, whatever pytest makes of the name

    tasks: list[str]
    round: int
    """1, or 2 for a group that the first round asked for."""
    over_alone: Gain | None
    """Null for a task alone, and where nothing could be compared."""
    failure: str | None
    """Why it could not be tested."""


class TaskGains(BaseModel):
    """How one task did in the short runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    task: str
    tested_group: str
    """Its group in the plan that was tested."""
    group: str
    """Its group now."""
    tested_over_alone: Gain | None
    """In the tested plan's group against training alone; null where one of the two was not to be had."""
    tested_over_one_group: Gain | None
    over_alone: Gain | None
    """In the group that was chosen."""
    over_one_group: Gain | None


class Arbitration(BaseModel):
    """What the short runs showed, and what follows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    outcome: Literal["kept", "changed", "one_group", "all_alone"]
    """What became of the plan's groups.  `one_group` and `all_alone` also where the plan was that already."""
    sentence: str
    """The outcome with its reason."""
    groups: dict[str, list[str]]
    """The groups that were chosen; ids are those of the tested plan where most tasks are the same."""
    tested_groups: dict[str, list[str]]
    """The plan that was tested."""
    gain: Gain | None
    """Of the groups found best, before they were held against one group, over one group of all tasks; they were found
    on the same images, so it is rather too high, and the gain on test images tells."""
    tested_gain: Gain | None
    """Of the tested plan over one group of all tasks."""
    tasks: list[TaskGains]
    tested: list[TestedGroup]
    actions: list[Action]
    num_rounds: int
    power: PredictivePower
    """Whether the similarities foretold the gains."""


def second_round(
    groups: Mapping[str, Sequence[str]],
    scores: Mapping[Composition, Mapping[str, Sequence[float]]],
    similarity: Similarities,
    config: GroupingConfig,
    costs: Mapping[str, float] | None = None,
) -> list[Composition]:
    """The groups that the first round asks for and did not test: they have to be, before they may be chosen."""
    first = first_round(groups)
    revision = _revise(groups, Trials(scores, config.seed).of(first), similarity, config, costs)
    return [group for group in revision.groups if group not in first]


def arbitrate(
    groups: Mapping[str, Sequence[str]],
    scores: Mapping[Composition, Mapping[str, Sequence[float]]],
    similarity: Similarities,
    config: GroupingConfig,
    *,
    costs: Mapping[str, float] | None = None,
    failures: Mapping[Composition, str] | None = None,
) -> Arbitration:
    """The groups to train, from the scores of both rounds: group -> task -> one score per validation image.

    A group without scores failed, and `failures` says why; it is out of consideration, and so is one group of all tasks
    where a cap or a link forbids it.
    """
    trials, first = Trials(scores, config.seed), first_round(groups)
    before = [frozenset(tasks) for tasks in groups.values()]
    everything = frozenset().union(*before)
    revision = _revise(groups, trials.of(first), similarity, config, costs)
    settled, undone = _settle(groups, revision, trials, config)
    one_group = [everything]
    gain = trials.gain(settled, one_group)
    chosen, sentence = _against_one_group(
        settled, one_group, gain, trials, limits_allow(one_group, config, costs), config
    )
    ids = dict(zip(group_ids([sorted(group) for group in chosen], groups), chosen, strict=True))
    second = [group for group in revision.groups if group not in first]
    return Arbitration(
        outcome=_outcome(before, chosen),
        sentence=sentence,
        groups={id: sorted(ids[id]) for id in sorted(ids, key=lambda id: sorted(ids[id]))},
        tested_groups={id: sorted(tasks) for id, tasks in groups.items()},
        gain=gain,
        tested_gain=trials.gain(before, one_group) if trials.know(before) else None,
        tasks=[_task_gains(task, groups, ids, trials, one_group) for task in sorted(everything)],
        tested=[
            TestedGroup(
                tasks=sorted(group),
                round=number,
                over_alone=trials.over_alone(group),
                failure=None if group in scores else (failures or {}).get(group, "it was not tested"),
            )
            for number, tested in ((1, first), (2, second))
            for group in tested
        ],
        actions=[*revision.actions, *undone],
        num_rounds=2 if second else 1,
        power=fit(similarity, trials.observations()).power,
    )


def _revise(
    groups: Mapping[str, Sequence[str]],
    trials: Trials,
    similarity: Similarities,
    config: GroupingConfig,
    costs: Mapping[str, float] | None,
) -> Revision:
    return revise(groups, trials, fit(similarity, trials.observations()), config, costs)


def _settle(
    groups: Mapping[str, Sequence[str]], revision: Revision, trials: Trials, config: GroupingConfig
) -> tuple[list[Composition], list[Action]]:
    """The best of what was tested, wherever something changed: as it was, as it was changed, or with the tasks that
    moved alone.  What still loses together is dissolved."""
    before = [frozenset(tasks) for tasks in groups.values()]
    unit_of = units_of(config, sorted(task for group in before for task in group))
    settled: list[Composition] = []
    actions: list[Action] = []
    for component in _components([*before, *revision.groups]):
        old = [group for group in before if group <= component]
        new = [group for group in revision.groups if group <= component]
        moved = [unit for unit in revision.moved if unit <= component]
        away = frozenset().union(*moved)
        left = [*(group - away for group in new if group - away), *moved]
        tested = [option for option in (old, new, left) if trials.know(option)]
        best = max(tested, key=trials.mean) if tested else new
        if best is old and set(old) != set(new):
            ids = [id for id, tasks in groups.items() if frozenset(tasks) in old]
            said = f"The change of {' and '.join(ids)} did no good in its own test and was undone."
            actions.append(Action(kind="undone", tasks=sorted(component), from_group=ids[0], sentence=said))
        for group in best:
            gain, units = trials.over_alone(group), sorted({unit_of[task] for task in group}, key=sorted)
            if gain is not None and gain.is_harm and len(units) > 1 and trials.know(units):
                said = f"{in_words(group)} do worse together than alone, by {points(gain)}: they train apart."
                (id, *_) = [id for id, tasks in groups.items() if group & set(tasks)]
                actions.append(Action(kind="dissolved", tasks=sorted(group), from_group=id, sentence=said))
                settled += units
            else:
                settled.append(group)
    return sorted(settled, key=sorted), actions


def _against_one_group(
    settled: list[Composition],
    one_group: list[Composition],
    gain: Gain | None,
    trials: Trials,
    allowed: bool,
    config: GroupingConfig,
) -> tuple[list[Composition], str]:
    """What is chosen in the end, and why."""
    said = f"{len(settled)} groups" if any(len(group) > 1 for group in settled) else "single tasks"
    if settled == one_group:
        return settled, "One group of all tasks stands: nothing that was tested is surely better."
    if gain is None:
        return (
            settled,
            f"The plan is {said}; one group of all tasks could not be tested, so nothing speaks for it or against it.",
        )
    versus = f"{points(gain)} against one group of all tasks on {gain.num_images} validation images"
    if not allowed:
        return settled, f"The plan is {said}: {versus}, which the job's demands forbid."
    if not trials.know(settled):
        return one_group, f"One group of all tasks is taken: not all of {said} could be tested."
    if gain.low >= 0 and gain.mean > 0:
        return settled, f"{said.capitalize()} are worth it: {versus}."
    alone = sorted(set(units_of(config, sorted(one_group[0])).values()), key=sorted)
    over = trials.gain(alone, one_group) if trials.know(alone) else None
    if over is not None and over.is_gain:
        return (
            alone,
            f"Every task trains alone, which is {points(over)} against one group of all tasks; {said}: {versus}.",
        )
    return one_group, f"One group of all tasks is taken: {said} are not surely better, {versus}."


def _components(groups: Sequence[Composition]) -> list[Composition]:
    """Tasks that the groups connect."""
    found: list[Composition] = []
    for group in groups:
        touched = [component for component in found if component & group]
        found = [component for component in found if not component & group] + [group.union(*touched)]
    return found


def _outcome(before: Partition, chosen: Partition) -> Literal["kept", "changed", "one_group", "all_alone"]:
    if len(chosen) == 1:
        return "one_group"
    if all(len(group) == 1 for group in chosen):
        return "all_alone"
    return "kept" if set(chosen) == set(before) else "changed"


def _task_gains(
    task: str,
    groups: Mapping[str, Sequence[str]],
    chosen: Mapping[str, Composition],
    trials: Trials,
    one_group: Partition,
) -> TaskGains:
    tested = next(id for id, tasks in groups.items() if task in tasks)
    now = next(id for id, tasks in chosen.items() if task in tasks)
    was = frozenset(groups[tested])
    return TaskGains(
        task=task,
        tested_group=tested,
        group=now,
        tested_over_alone=trials.over_alone(was, [task]),
        tested_over_one_group=trials.gain([was], one_group, [task]),
        over_alone=trials.over_alone(chosen[now], [task]),
        over_one_group=trials.gain([chosen[now]], one_group, [task]),
    )
