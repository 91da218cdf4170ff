"""Stage `train`: the plan's groups and the baselines, costliest first, packed onto the device workers.

A group is finished when its `result.json` is there, so a restart trains only what is missing.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grouping.gains import paired_gain
from service.scores import in_words, interval, points
from service.stages.group import approved_plan, read_plan
from service.stages.inherit import take_over
from service.stages.parent import parent_of, zero_shot_parts
from service.stages.passes import Landing, run_passes
from service.stages.run import JobRun, StageFailed
from service.stages.search import tuned
from service.stages.units import TrainUnits, can_share, train_units
from service.stages.validate import class_lists, datasets, tell_left_out
from service.states import JobState
from workers import faults
from workers.failures import FailureClass
from workers.launching.work import GroupUnit
from workers.seals import Damaged
from workers.training.results import RESULT, GroupResult


@dataclass
class Trained:
    """How every unit of the stage ended."""

    units: TrainUnits
    results: dict[str, GroupResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Unit id -> reason."""
    classes: dict[str, FailureClass] = field(default_factory=dict)
    """Unit id -> class of its failure."""


def train(run: JobRun) -> Trained:
    """Trains whatever has no result yet, evaluates all, and names tasks that their group surely hurt.

    StageFailed if not one group of the plan finished.
    """
    run.enter(JobState.TRAINING)
    settings = tuned(run)
    if settings.common[0] != run.spec.method and can_share(run.spec.method, class_lists(run)):
        tell_left_out(run, settings.common[0])
    trained = Trained(_units(run))
    run.put_groups(trained.units.units)
    parent = parent_of(run)
    if parent is not None and approved_plan(parent.run) is not None:
        take_over(run, parent, trained.units, _units(parent.run))
    _land_finished(run, trained, trained.units.units)
    run_passes(run, trained.units.units, trained.units.trainings, _Results(run, trained))
    faults.point("driver.results.landed")
    if not any(group in trained.results for group in trained.units.planned.values()):
        reasons = "; ".join(f"{group}: {reason}" for group, reason in trained.failures.items())
        planned = [trained.classes[group] for group in trained.units.planned.values()]
        raise StageFailed(f"No group could be trained. {reasons}", failure=planned[0])
    name_the_hurt(run, trained)
    return trained


def _units(run: JobRun) -> TrainUnits:
    found = datasets(run)
    sizes = {name: task["num_train"] for name, task in found.items()}
    return train_units(run.spec, read_plan(run), sizes, class_lists(run), tuned(run), zero_shot_parts(found))


class _Results(Landing):
    """Units leave their result in a folder of their own; one that is there was trained by an attempt before."""

    evaluate = "test"

    def __init__(self, run: JobRun, trained: Trained) -> None:
        self._run, self._trained = run, trained

    def directory(self, unit: GroupUnit) -> Path:
        return _directory(self._run, unit.id)

    def is_done(self, unit: GroupUnit) -> bool:
        return unit.id in self._trained.results

    def land(self, units: Sequence[GroupUnit]) -> None:
        _land_finished(self._run, self._trained, units)

    def fail(self, unit: GroupUnit, reason: str, failure: FailureClass) -> None:
        self._trained.failures[unit.id] = reason
        self._trained.classes[unit.id] = failure


def _directory(run: JobRun, group: str) -> Path:
    return run.files.path(f"groups/{group}")


def _finished(run: JobRun, unit: GroupUnit) -> GroupResult | None:
    """The unit's result; a damaged one is removed, told, and trained again."""
    directory = _directory(run, unit.id)
    try:
        return GroupResult.read(directory)
    except Damaged as error:
        (directory / RESULT).unlink(missing_ok=True)
        run.event("result_damaged", f"{unit.id} is trained again: {error}", level="warning")
        return None


def _land_finished(run: JobRun, trained: Trained, units: Sequence[GroupUnit]) -> None:
    """Takes in the results that are there and were not yet, in the middle of a pass as well."""
    there = {path.parent.name for path in run.files.path().glob(f"groups/*/{RESULT}")}  # one look, not one a unit
    waited = [unit for unit in units if unit.id not in trained.results and unit.id in there]
    new = {unit: result for unit in waited if (result := _finished(run, unit))}
    told = {group.id for group in run.store.groups(run.job) if group.state == "done"} if new else set()
    for unit, result in new.items():
        trained.results[unit.id] = result
        faults.point("driver.result.read")
        run.update_group(
            unit.id,
            state="done",
            step=result.steps,
            num_steps=result.steps,
            parameters=result.parameters,
            seconds=result.seconds,
            reason=None,
        )
        if unit.id in told:  # by an attempt before this one
            continue
        scores = ", ".join(f"{task} {in_words(found.score, found.metric)}" for task, found in result.results.items())
        run.event("group_done", f"{unit.id} is done: {scores}.", data={"group": unit.id, "seconds": result.seconds})
    if new:
        run.put_results(result_rows(trained))


def result_rows(trained: Trained) -> list[dict[str, Any]]:
    """One row per task for its group, and one per task and baseline."""
    rows: list[dict[str, Any]] = []
    for baseline, members in ((None, trained.units.planned), *trained.units.baselines.items()):
        for task, group in members.items():
            if group in trained.results:
                found = trained.results[group].results[task]
                rows.append(
                    {
                        "task": task,
                        "group": group,
                        "baseline": baseline,
                        "metric": found.metric,
                        "score": found.score,
                        "metrics": found.metrics,
                        "loss": found.loss if math.isfinite(found.loss) else None,  # JSON has no number for it
                        "num_test": found.num_test,
                    }
                )
    return rows


def name_the_hurt(run: JobRun, trained: Trained) -> None:
    """An event and a metric for every task that surely does worse in its group than alone, or than zero-shot.

    Surely: the paired interval over its test images lies below 0.  A task that is a group by itself has nobody there
    who could hurt it, so it is not held against training alone.
    """
    sizes = Counter(trained.units.planned.values())
    for task, group in trained.units.planned.items():
        if group not in trained.results:
            continue
        mine = trained.results[group].results[task]
        for baseline in ("alone", "zero_shot"):
            other = trained.units.baselines.get(baseline, {}).get(task)
            if other is None or other == group or other not in trained.results:
                continue
            if baseline == "alone" and sizes[group] == 1:
                continue
            theirs = trained.results[other].results[task]
            if mine.score >= theirs.score:
                continue
            gain = paired_gain({task: mine.per_image}, {task: theirs.per_image})
            if not gain.is_harm:
                continue
            run.event(
                "harmed",
                f"{task} does worse in {group} ({in_words(mine.score, mine.metric)}) than {_SAID[baseline]} "
                f"({in_words(theirs.score, theirs.metric)}), on {mine.num_test} test images: "
                f"{points(gain.mean)} points per image (95 % interval {interval(gain.low, gain.high)}).",
                level="warning",
                data={
                    "task": task,
                    "group": group,
                    "baseline": baseline,
                    "metric": mine.metric,
                    "score": mine.score,
                    "other": theirs.score,
                    "low": gain.low,
                    "high": gain.high,
                },
            )
            step = trained.results[group].steps
            loss = theirs.score - mine.score
            run.add_metrics(
                [{"group": group, "task": task, "step": step, "name": f"harm_vs_{baseline}", "value": loss}]
            )


_SAID = {"alone": "trained alone", "zero_shot": "zero-shot"}
