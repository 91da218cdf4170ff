"""Arbitration inside the stage `group`: the plan from the gradients is put to the test by short training runs.

What they show is decided in `grouping/arbitration.py`.  Every trial that ends leaves `arbitration/<unit>.json`, also
one that failed, so a restart trains only what is missing and comes to the same decision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from grouping.arbitration import Arbitration, arbitrate, second_round
from grouping.given import plan_of_groups
from grouping.group_ids import group_ids
from grouping.plan import Plan
from grouping.trials import Composition, first_round
from service.artifacts import ARBITRATION
from service.measurements import read_measurement, task_costs
from service.scores import in_words
from service.stages.aside import aside
from service.stages.passes import Landing, run_passes
from service.stages.run import MADE_AGAIN, JobRun, StageFailed
from service.stages.units import can_share
from service.stages.validate import class_lists, datasets
from workers.failures import FailureClass
from workers.launching.work import GroupUnit, num_steps, train_unit
from workers.storage import remove_tree
from workers.training.config import TrainConfig
from workers.training.results import ValidationResult

FOLDER = "arbitration"


def add_arbitrated(run: JobRun, plan: Plan) -> tuple[int, Plan]:
    """Tests the plan, decides and adds the plan that follows, approved unless the user wants to see it first."""
    found = _decided(run, plan)
    costs = task_costs(run.files, run.spec.training.batch_size)
    chosen = aside(
        run,
        lambda: plan_of_groups(
            read_measurement(run.files),
            found.groups,
            run.spec.grouping,
            origin="arbitrated",
            summary=f"{found.sentence} {found.power.sentence}",
            costs=costs,
        ),
    )
    run.check()
    return run.add_plan(chosen, approved=not run.spec.grouping.approve), chosen


def read_arbitration(run: JobRun, without: str = MADE_AGAIN) -> Arbitration | None:
    """What the test showed; None for a job without one.  `without`: what follows where it is damaged, in words."""
    if not run.has(ARBITRATION, without):
        return None
    return Arbitration.model_validate_json(run.files.read_text(ARBITRATION))


def trial_training(training: TrainConfig, share: float, num_train: Mapping[str, int]) -> TrainConfig:
    """The job's own training, shortened as a whole: steps and warm-up by the same share, scored at its end."""
    steps = max(1, math.ceil(share * num_steps(training, num_train)))
    shorter = {"max_steps": steps, "warmup_epochs": math.floor(share * training.warmup_epochs), "validations": 1}
    return training.model_copy(update=shorter)


def _decided(run: JobRun, plan: Plan) -> Arbitration:
    if (kept := read_arbitration(run)) is not None:
        return kept
    groups = {group.id: group.tasks for group in plan.groups}
    config, similarity = run.spec.grouping, similarities(plan)
    costs = task_costs(run.files, run.spec.training.batch_size)
    trials = Trials(run)
    first = first_round(groups)
    planned = {frozenset(tasks): f"try-{id}" for id, tasks in groups.items()}
    trials.test({group: planned.get(group) or _reference_id(group) for group in first})
    second = second_round(groups, trials.scores, similarity, config, costs)
    if second:
        ids = group_ids([sorted(group) for group in second], groups)
        trials.test({group: f"try-again-{id}" for group, id in zip(second, ids, strict=True)})
    found = aside(
        run,
        lambda: arbitrate(groups, trials.scores, similarity, config, costs=costs, failures=trials.failures),
    )
    run.check()
    run.files.write_text(ARBITRATION, found.model_dump_json(indent=1))
    remove_tree(run.files.path(f"{FOLDER}/scratch"))
    for action in found.actions:
        run.event("arbitration", action.sentence, data=action.model_dump(mode="json"))
    run.event(
        "arbitrated",
        f"{found.sentence} {found.power.sentence} {trials.price(list(groups.values()))}",
        data={"outcome": found.outcome, "groups": found.groups, "is_predictive": found.power.is_predictive},
    )
    return found


def similarities(plan: Plan) -> dict[str, dict[str, float]]:
    """Task -> other task -> similarity; tasks without a usable gradient have none."""
    rows = zip(plan.task_names, plan.similarity or [], strict=plan.similarity is not None)
    return {
        task: {
            other: value
            for other, value in zip(plan.task_names, row, strict=True)
            if value is not None and other != task
        }
        for task, row in rows
    }


class Trials(Landing):
    """Short runs of groups, and what they showed on validation images."""

    evaluate = "validation"

    def __init__(self, run: JobRun) -> None:
        self.scores: dict[Composition, dict[str, list[float]]] = {}
        self.failures: dict[Composition, str] = {}
        self._run = run
        self._results: list[ValidationResult] = []
        self._ended: set[str] = set()
        self._unwritten: list[str] = []
        """Why trials are missing whose files storage did not take: that says nothing of their groups."""
        self._num_train = {name: found["num_train"] for name, found in datasets(run).items()}
        self._classes = class_lists(run)
        self._training = trial_training(run.spec.training, run.spec.grouping.arbitrate_share, self._num_train)
        self._told = {group.id for group in run.store.groups(run.job) if group.state in ("done", "failed")}

    def test(self, groups: Mapping[Composition, str]) -> None:
        """Trains the groups (-> unit ids) under the job's own method and sharing, whatever is not trained yet."""
        units = [self._unit(id, group) for group, id in groups.items()]
        units = [unit for unit in units if self._can_train(unit)]
        self._run.put_groups(tuple(units))
        self.land(units)
        missing = [unit for unit in units if not self.is_done(unit)]
        if missing:
            images = sum(unit.num_steps * unit.images_per_step for unit in missing)
            self._run.event(
                "trials_started",
                f"{len(missing)} trial(s) of {max(unit.num_steps for unit in missing)} step(s) each put groups to the "
                f"test: {images} training images.",
                data={"groups": {unit.id: list(unit.tasks) for unit in missing}},
            )
        run_passes(self._run, missing, {unit.id: self._training for unit in missing}, self)
        if self._unwritten:
            raise StageFailed("; ".join(self._unwritten), failure=FailureClass.STORAGE)

    def price(self, groups: Sequence[Sequence[str]]) -> str:
        """What the trials took beside the training of the plan's groups, which is the same for every plan."""
        steps, images = (sum(getattr(result, what) for result in self._results) for what in ("steps", "images"))
        planned = [self._unit("", frozenset(tasks), self._run.spec.training) for tasks in groups]
        expected = sum(unit.num_steps * unit.images_per_step for unit in planned)
        share = f", {images / expected:.0%} of the {expected} that the plan itself trains on" if expected else ""
        seconds = sum(result.seconds for result in self._results)
        return (
            f"The test took {len(self._results)} trial(s), {steps} step(s) and {images} training images{share} "
            f"({seconds:.0f} s)."
        )

    def directory(self, unit: GroupUnit) -> Path:
        return self._run.files.path(f"{FOLDER}/scratch/{unit.id}")

    def is_done(self, unit: GroupUnit) -> bool:
        return unit.id in self._ended

    def land(self, units: Sequence[GroupUnit]) -> None:
        for unit in units:
            if unit.id in self._ended:
                continue
            if self._run.has(self._path(unit)):
                self._take(unit, self._run.files.read_json(self._path(unit)))
            elif (result := ValidationResult.read(self.directory(unit))) is not None:
                self._keep(unit, asdict(result))

    def fail(self, unit: GroupUnit, reason: str, failure: FailureClass) -> None:
        self._run.check()  # an attempt that is over has nothing to say about its units
        if failure is FailureClass.STORAGE:
            self._unwritten.append(f"{unit.id}: {reason}")
            return
        self._keep(unit, {"group": unit.id, "tasks": unit.tasks, "failure": reason})

    def _keep(self, unit: GroupUnit, record: dict) -> None:
        self._take(unit, record)
        self._run.files.write_json(self._path(unit), record)
        remove_tree(self.directory(unit))

    def _take(self, unit: GroupUnit, record: dict) -> None:
        self._ended.add(unit.id)
        group = frozenset(unit.tasks)
        if "failure" in record:
            self.failures[group] = record["failure"]
            return
        result = ValidationResult(**record)
        self._results.append(result)
        self.scores[group] = result.per_image
        self._run.update_group(
            unit.id, state="done", step=result.steps, num_steps=result.steps, seconds=result.seconds, reason=None
        )
        if unit.id not in self._told:  # by an attempt before this one
            scores = ", ".join(f"{task} {in_words(result.scores[task], result.metrics[task])}" for task in unit.tasks)
            self._run.event("trial_done", f"{unit.id} on validation images: {scores}.", data={"group": unit.id})

    def _can_train(self, unit: GroupUnit) -> bool:
        """Notes groups whose tasks cannot share the method."""
        if len(unit.tasks) == 1 or can_share(unit.method, {task: self._classes[task] for task in unit.tasks}):
            return True
        self.failures[frozenset(unit.tasks)] = (
            f"with these settings {unit.method.kind} is shared only by tasks with the same class names"
        )
        return False

    def _unit(self, id: str, group: Composition, training: TrainConfig | None = None) -> GroupUnit:
        tasks = tuple(task.name for task in self._run.spec.tasks if task.name in group)
        num_texts = {name: len(classes) for name, classes in self._classes.items()}
        method = self._run.spec.method
        return train_unit(id, "trial", tasks, method, training or self._training, self._num_train, num_texts)

    def _path(self, unit: GroupUnit) -> str:
        return f"{FOLDER}/{unit.id}.json"


def _reference_id(group: Composition) -> str:
    return f"try-alone-{next(iter(group))}" if len(group) == 1 else "try-all"
