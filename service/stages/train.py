"""Stage `train`: the plan's groups and the baselines, costliest first, packed onto the device workers.

A group is finished when its `result.json` is there, so a restart trains only what is missing.  A pass that fails is
split in two and tried again from its checkpoints, until the group at fault fails alone and its siblings are done.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.costs import learned_costs
from service.scores import in_words
from service.stages.group import read_plan
from service.stages.run import Interrupted, JobRun, StageFailed
from service.stages.search import tuned
from service.stages.supervise import supervise
from service.stages.units import TrainUnits, can_share, train_units
from service.stages.validate import class_lists, datasets, fingerprints, tell_left_out
from service.states import JobState
from workers.launching.board import Outcome
from workers.launching.cost_model import CostModel
from workers.launching.packing import MAX_IMAGES_PER_STEP, longest_first, pack
from workers.launching.work import GroupUnit, PassWork, Work
from workers.training.config import TrainConfig
from workers.training.results import RESULT, GroupResult

MAX_CRASHES = 2
"""Times that a group's process may vanish under it before the group is given up."""


@dataclass
class Trained:
    """How every unit of the stage ended."""

    units: TrainUnits
    results: dict[str, GroupResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Unit id -> reason."""


def train(run: JobRun) -> Trained:
    """Trains whatever has no result yet, evaluates all, and names tasks that their group hurt.

    StageFailed if not one group of the plan finished.
    """
    run.enter(JobState.TRAINING)
    sizes = {name: found["num_train"] for name, found in datasets(run).items()}
    settings = tuned(run)
    if settings.common[0] != run.spec.method and can_share(run.spec.method, class_lists(run)):
        tell_left_out(run, settings.common[0])
    trained = Trained(train_units(run.spec, read_plan(run), sizes, class_lists(run), settings))
    run.put_groups(trained.units.units)
    _land_finished(run, trained, trained.units.units)
    _train_missing(run, trained)
    if not any(group in trained.results for group in trained.units.planned.values()):
        reasons = "; ".join(f"{group}: {reason}" for group, reason in trained.failures.items())
        raise StageFailed(f"No group could be trained. {reasons}")
    _name_the_hurt(run, trained)
    return trained


def _train_missing(run: JobRun, trained: Trained) -> None:
    model = learned_costs(run.store, run.spec)
    missing = [unit.priced(model) for unit in trained.units.units if unit.id not in trained.results]
    if not missing:
        return
    devices = run.spec.resources.devices_per_group
    if devices == 1:
        alike: dict[TrainConfig, list[GroupUnit]] = {}  # one pass has one optimiser's settings
        for unit in missing:
            alike.setdefault(trained.units.trainings[unit.id], []).append(unit)
        passes = [
            members for units in alike.values() for members in pack(units, run.launcher.capacity(), MAX_IMAGES_PER_STEP)
        ]
    else:
        passes = [[unit] for unit in missing]
    passes.sort(key=_cost, reverse=True)
    if model is not None:
        _tell_expected(run, passes, model)
    crashes = dict.fromkeys((unit.id for unit in missing), 0)

    def on_end(work: Work, outcome: Outcome) -> list[Work]:
        _land_finished(run, trained, work.groups)
        unfinished = [unit for unit in work.groups if unit.id not in trained.results]
        if not unfinished:
            return []
        for unit in unfinished:
            crashes[unit.id] += outcome.fault == "crash"
        ids = ", ".join(unit.id for unit in unfinished)
        if len(unfinished) > 1:
            run.event("pass_split", f"{ids}: {outcome.error} Trying them in two halves.", level="warning")
            half = (len(unfinished) + 1) // 2
            return [_pass_work(run, trained, part) for part in (unfinished[:half], unfinished[half:])]
        (unit,) = unfinished
        if outcome.fault == "crash" and crashes[unit.id] < MAX_CRASHES:
            run.event("group_retried", f"{ids}: {outcome.error} Trying once more.", level="warning")
            return [_pass_work(run, trained, [unit])]
        trained.failures[unit.id] = outcome.error or "it ended without a result"
        run.update_group(unit.id, state="failed", reason=trained.failures[unit.id])
        run.files.append_log(unit.id, [trained.failures[unit.id], *outcome.traceback.splitlines()])
        run.event("group_failed", f"{unit.id} ({', '.join(unit.tasks)}): {trained.failures[unit.id]}", level="error")
        return []

    run.launcher.announce(run.job, run.attempt, missing, devices=devices)
    try:
        supervise(
            run,
            [_pass_work(run, trained, units) for units in passes],
            on_end,
            lambda: _land_finished(run, trained, missing),
        )
    except Interrupted:
        _land_finished(run, trained, missing)  # what finished while the others wrote their checkpoints
        raise


def _cost(units: Sequence[GroupUnit]) -> float:
    return sum(unit.cost for unit in units)


def _tell_expected(run: JobRun, passes: Sequence[list[GroupUnit]], model: CostModel) -> None:
    """When the groups should be done, as those before them were."""
    workers = run.launcher.capacity(run.spec.resources.devices_per_group)
    seconds = max(sum(map(_cost, of_worker)) for of_worker in longest_first(passes, num_bins=workers, cost=_cost))
    units = [unit for units in passes for unit in units]
    run.event(
        "expected",
        f"{len(units)} group(s) and baselines in {len(passes)} pass(es), longest first, on up to {workers} worker(s): "
        f"about {seconds:.0f} s of training steps, as the {model.num_groups} finished before them took.",
        data={"seconds": seconds, "groups": {unit.id: unit.cost for unit in units if unit.num_steps}},
    )


def _pass_work(run: JobRun, trained: Trained, units: list[GroupUnit]) -> PassWork:
    needed = {task for unit in units for task in unit.tasks}
    common = run.common()
    common["tasks"] = tuple(task for task in run.spec.tasks if task.name in needed)
    steps = max(unit.num_steps for unit in units)
    training = trained.units.trainings[units[0].id]
    return PassWork(
        **common,
        groups=tuple(units),
        fingerprints=fingerprints(run),
        devices=run.spec.resources.devices_per_group,
        training=training if steps == 0 else training.model_copy(update={"max_steps": steps}),
        directories={unit.id: _directory(run, unit.id) for unit in units},
    )


def _directory(run: JobRun, group: str) -> Path:
    return run.files.path(f"groups/{group}")


def _finished(run: JobRun, unit: GroupUnit) -> GroupResult | None:
    """The unit's result; a damaged one is set aside, told, and trained again."""
    directory = _directory(run, unit.id)
    try:
        return GroupResult.read(directory)
    except ValueError as error:
        (directory / RESULT).rename(directory / f"damaged-{RESULT}")
        run.event("result_damaged", f"{unit.id} is trained again: {error}", level="warning")
        return None


def _land_finished(run: JobRun, trained: Trained, units: Sequence[GroupUnit]) -> None:
    """Takes in the results that are there and were not yet, in the middle of a pass as well."""
    new = {unit: result for unit in units if unit.id not in trained.results and (result := _finished(run, unit))}
    told = {group.id for group in run.store.groups(run.job) if group.state == "done"} if new else set()
    for unit, result in new.items():
        trained.results[unit.id] = result
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


def _name_the_hurt(run: JobRun, trained: Trained) -> None:
    """An event and a metric for every task that does worse in its group than alone, or than with nothing trained."""
    for task, group in trained.units.planned.items():
        if group not in trained.results:
            continue
        mine = trained.results[group].results[task]
        for baseline in ("alone", "zero_shot"):
            other = trained.units.baselines.get(baseline, {}).get(task)
            if other is None or other == group or other not in trained.results:
                continue
            theirs = trained.results[other].results[task]
            if mine.score >= theirs.score:
                continue
            run.event(
                "harmed",
                f"{task} does worse in {group} ({in_words(mine.score, mine.metric)}) than {_SAID[baseline]} "
                f"({in_words(theirs.score, theirs.metric)}), on {mine.num_test} test images.",
                level="warning",
                data={
                    "task": task,
                    "group": group,
                    "baseline": baseline,
                    "metric": mine.metric,
                    "score": mine.score,
                    "other": theirs.score,
                },
            )
            step = trained.results[group].steps
            loss = theirs.score - mine.score
            run.add_metrics(
                [{"group": group, "task": task, "step": step, "name": f"harm_vs_{baseline}", "value": loss}]
            )


_SAID = {"alone": "trained alone", "zero_shot": "zero-shot"}
