"""How a plan changes after its groups were tested: tasks that lose by their group move or leave, groups that lose
dissolve.  Changed groups have to be tested in turn, once, before they may stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict

from grouping.config import GroupingConfig
from grouping.demands import fuse
from grouping.gains import Gain
from grouping.given import check_limits
from grouping.prediction import Predictor
from grouping.trials import Composition, Trials


class Action(BaseModel):
    """A change, or why there was none."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["dissolved", "moved", "left", "kept", "undone"]
    """`kept`: a demand of the job holds together what does worse together.  `undone`: a change that did no good."""
    tasks: list[str]
    from_group: str
    """Group of the plan that was tested."""
    to_group: str | None = None
    """Where the tasks moved."""
    sentence: str


@dataclass(frozen=True)
class Revision:
    """The groups that the first round asks for."""

    groups: tuple[Composition, ...]
    moved: tuple[Composition, ...]
    """Tasks that joined another group."""
    actions: tuple[Action, ...]


def units_of(config: GroupingConfig, tasks: Sequence[str]) -> dict[str, Composition]:
    """Task -> the tasks that a demand keeps it together with, itself among them."""
    return {task: frozenset(unit) for unit in fuse(config, tasks) for task in unit}


def revise(
    groups: Mapping[str, Sequence[str]],
    trials: Trials,
    predictor: Predictor,
    config: GroupingConfig,
    costs: Mapping[str, float] | None = None,
) -> Revision:
    """What the trials of the first round ask to change in the plan's groups, within the config's limits."""
    unit_of = units_of(config, sorted(task for tasks in groups.values() for task in tasks))
    actions: list[Action] = []
    stays: dict[str, Composition] = {}
    apart: list[Composition] = []
    for id, tasks in groups.items():
        group = frozenset(tasks)
        gain = trials.over_alone(group)
        units = sorted({unit_of[task] for task in group}, key=sorted)
        why = _why_dissolve(group, trials, gain)
        if why is None or len(units) == 1:
            stays[id] = group
            if why is not None and len(group) > 1:
                actions.append(_action("kept", group, id, f"{why}, but the job's demands keep them together."))
            continue
        apart += units
        actions.append(_action("dissolved", group, id, f"{why}: {id} is dissolved."))
    moved: list[Composition] = []
    for id, unit, gain in _harmed(stays, trials, unit_of):
        loses = (
            f"{in_words(unit)} {'loses' if len(unit) == 1 else 'lose'} by {id}: {points(gain)} against training alone"
        )
        to = _destination(id, unit, stays, predictor, config, costs)
        stays[id] -= unit
        if to is None:
            apart.append(unit)
            actions.append(
                _action(
                    "left",
                    unit,
                    id,
                    f"{loses}; no other group promises a gain, so {'it leaves' if len(unit) == 1 else 'they leave'}.",
                )
            )
            continue
        stays[to] |= unit
        moved.append(unit)
        actions.append(_action("moved", unit, id, f"{loses}; the similarities foretell a gain in {to}.", to))
    return Revision(tuple(group for group in [*stays.values(), *apart] if group), tuple(moved), tuple(actions))


def limits_allow(
    groups: Sequence[Composition], config: GroupingConfig, costs: Mapping[str, float] | None = None
) -> bool:
    """Whether the config's caps and links let these groups be."""
    try:
        check_limits({f"g{n}": sorted(group) for n, group in enumerate(groups, start=1)}, config, costs)
    except ValueError:
        return False
    return True


def points(gain: Gain) -> str:
    """A gain in points of score with its interval."""
    return f"{100 * gain.mean:+.1f} points (95 %: {100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def in_words(tasks: Composition) -> str:
    """Names of tasks for a sentence."""
    *most, last = sorted(tasks)
    return f"{', '.join(most)} and {last}" if most else last


def _why_dissolve(group: Composition, trials: Trials, gain: Gain | None) -> str | None:
    if len(group) > 1 and group not in trials.scores:
        return f"The test of {in_words(group)} failed"
    if gain is not None and gain.is_harm:
        return f"{in_words(group)} do worse together than alone, by {points(gain)}"
    return None


def _harmed(
    stays: Mapping[str, Composition], trials: Trials, unit_of: Mapping[str, Composition]
) -> list[tuple[str, Composition, Gain]]:
    """What surely loses by its group and can go, the greatest loss first."""
    found = [
        (id, unit, gain)
        for id, group in stays.items()
        for unit in sorted({unit_of[task] for task in group}, key=sorted)
        if unit != group and (gain := trials.over_alone(group, unit)) is not None and gain.is_harm
    ]
    return sorted(found, key=lambda harm: (harm[2].mean, sorted(harm[1])))


def _destination(
    id: str,
    unit: Composition,
    stays: Mapping[str, Composition],
    predictor: Predictor,
    config: GroupingConfig,
    costs: Mapping[str, float] | None,
) -> str | None:
    """The most similar other group, if a gain is foretold there and the limits let the tasks in."""
    near = {
        other: fmean(known)
        for other, group in stays.items()
        if other != id and (known := [s for task in unit if (s := predictor.similarity(task, group)) is not None])
    }
    if not near:
        return None
    to = max(near, key=lambda other: near[other])
    foretold = [predictor.gain(task, stays[to] | unit - {task}) for task in unit]
    known = [gain for gain in foretold if gain is not None]
    if not known or fmean(known) <= 0:
        return None
    after = [(group | unit if other == to else group - unit) for other, group in stays.items()]
    return to if limits_allow([group for group in after if group], config, costs) else None


def _action(
    kind: Literal["dissolved", "moved", "left", "kept", "undone"],
    tasks: Composition,
    id: str,
    sentence: str,
    to: str | None = None,
) -> Action:
    return Action(kind=kind, tasks=sorted(tasks), from_group=id, to_group=to, sentence=sentence)
