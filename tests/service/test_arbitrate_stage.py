"""Laws of arbitration in a job: trials are short and resumable, and the plan that follows from them is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grouping.arbitration import Arbitration
from grouping.outline import PlanOutline
from grouping.plan import Plan
from service.artifacts import plan_path
from service.stages.arbitrate import trial_training
from service.states import Desired, JobState
from service.store import Store
from workers.seals import read_sealed
from workers.training.config import TrainConfig

TASKS = ("art", "clipart", "photo")
ALONE = {f"try-alone-{task}" for task in TASKS}


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the driver may catch it."""


class MoodyStore(Store):
    """A store whose user, or whose machine, does something as soon as a trial is told to be done."""

    on_trial_done: Callable[[], object] | None = None
    dies_before_the_plan: bool = False

    def add_plan(self, job_id: str, outline: PlanOutline, save: Any, **fields: Any) -> int | None:
        if outline.origin == "arbitrated" and self.dies_before_the_plan:
            self.dies_before_the_plan = False
            raise Killed
        return super().add_plan(job_id, outline, save, **fields)

    def add_event(self, job_id: str, kind: str, message: str, **fields: Any) -> int | None:
        if kind == "trial_done" and self.on_trial_done is not None:
            happens, self.on_trial_done = self.on_trial_done, None
            happens()
        return super().add_event(job_id, kind, message, **fields)


def die() -> None:
    raise Killed


@pytest.fixture
def spec(make_spec: Callable[..., Any]) -> Callable[..., Any]:
    """A job whose groups are tested; its folders' tasks have validation images."""

    def make(**changes: Any) -> Any:
        base = make_spec(baselines=[]).model_dump(mode="json")
        base["tasks"] = [task | {"split": {"shots": 3, "val_shots": 3}} for task in base["tasks"]]
        base["grouping"] |= {"arbitrate": True, "arbitrate_share": 0.5}
        base["training"] |= {"max_steps": 4}
        return type(make_spec()).model_validate(base | changes)

    return make


def grouping(**changes: Any) -> dict[str, Any]:
    return {"arbitrate": True, "arbitrate_share": 0.5, **changes}


def plant(folder: Path, unit: str, per_image: dict[str, list[float]]) -> None:
    """A trial that an attempt before is said to have run."""
    means = {task: sum(scores) / len(scores) for task, scores in per_image.items()}
    record = {"group": unit, "tasks": list(per_image), "metrics": dict.fromkeys(per_image, "accuracy")}
    record |= {"scores": means, "per_image": per_image, "seconds": 1.0, "steps": 2, "images": 8}
    path = folder / "arbitration" / f"{unit}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def arbitration(folder: Path) -> Arbitration:
    return Arbitration.model_validate(read_sealed(folder / "arbitration.json"))


def test_an_arbitrated_job_tests_groups_and_trains_the_plan_that_follows(make_world, spec):
    world = make_world()
    job = world.submit(spec())
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    found = arbitration(world.folder(job))
    plans = world.store.plans(job)
    assert [(plan.outline.origin, plan.approved) for plan in plans] == [("gradients", False), ("arbitrated", True)]
    assert plans[1].outline.groups == found.groups
    assert found.sentence in plans[1].outline.summary and found.power.sentence in plans[1].outline.summary
    trials = [group for group in world.store.groups(job) if group.kind == "trial"]
    assert {trial.id for trial in trials} >= ALONE and {trial.state for trial in trials} == {"done"}
    assert {trial.num_steps for trial in trials} == {2}  # half of the four
    compositions = [tuple(trial.tasks) for trial in trials]
    assert len(compositions) == len(set(compositions))  # equal ones train once
    trained = {group.id: list(group.tasks) for group in world.store.groups(job) if group.kind == "plan"}
    assert trained == found.groups
    told = {event.kind: event.message for event in world.store.events(job)}
    images = sum(trial.num_steps * trial.images_per_step for trial in trials)
    assert f"{images} training images" in told["arbitrated"] and "% of the" in told["arbitrated"]
    assert found.power.sentence in told["arbitrated"]
    assert not (world.folder(job) / "arbitration" / "scratch").exists()
    stored = json.loads((world.folder(job) / "arbitration" / "try-alone-art.json").read_text())
    assert len(stored["per_image"]["art"]) == 9 and stored["metrics"] == {"art": "accuracy"}
    assert all(task.over_one_group is not None for task in found.tasks)
    bundle = world.folder(job) / "bundle"
    assert Arbitration.model_validate_json((bundle / "arbitration.json").read_text()) == found
    assert 'id="arbitration"' in (bundle / "report.html").read_text()


def test_an_arbitrated_plan_waits_for_approval_where_the_user_wants_to_see_it(make_world, spec):
    world = make_world()
    job = world.submit(spec(grouping=grouping(approve=True)))
    assert world.attempt(job) == JobState.AWAITING_APPROVAL, world.why(job)
    assert [plan.approved for plan in world.store.plans(job)] == [False, False]
    written = (world.folder(job) / "arbitration.json").stat().st_mtime_ns
    world.store.approve_plan(job, 0)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert (world.folder(job) / "arbitration.json").stat().st_mtime_ns == written
    assert [plan.approved for plan in world.store.plans(job)] == [True, False]


@pytest.mark.parametrize("wish", [Desired.PAUSE, Desired.CANCEL])
def test_a_wish_in_the_middle_of_the_test_is_honoured(make_world, spec, wish):
    world = make_world(MoodyStore("sqlite://"))
    job = world.submit(spec())
    world.store.on_trial_done = lambda: world.store.set_desired(job, wish)
    ended = JobState.PAUSED if wish == Desired.PAUSE else JobState.CANCELLED
    assert world.attempt(job) == ended, world.why(job)
    assert not (world.folder(job) / "arbitration.json").exists() and len(world.store.plans(job)) == 1
    if wish == Desired.PAUSE:
        world.store.set_desired(job, Desired.RUN)
        assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)


def test_a_killed_test_trains_only_what_is_missing_and_comes_to_the_same_decision(make_world, spec):
    world = make_world(MoodyStore("sqlite://"))
    undisturbed = world.submit(spec())
    assert world.attempt(undisturbed) == JobState.SUCCEEDED, world.why(undisturbed)

    job = world.submit(spec())
    world.store.on_trial_done = die
    with pytest.raises(Killed):
        world.attempt(job)
    assert not (world.folder(job) / "arbitration.json").exists()
    world.store.move(job, JobState.QUEUED, attempt=None)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert arbitration(world.folder(job)) == arbitration(world.folder(undisturbed))


def test_a_decision_that_was_written_down_is_not_made_again(make_world, spec):
    world = make_world(MoodyStore("sqlite://"))
    job = world.submit(spec())
    world.store.dies_before_the_plan = True
    with pytest.raises(Killed):
        world.attempt(job)
    written = (world.folder(job) / "arbitration.json").stat().st_mtime_ns
    assert [plan.outline.origin for plan in world.store.plans(job)] == ["gradients"]
    world.store.move(job, JobState.QUEUED, attempt=None)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert (world.folder(job) / "arbitration.json").stat().st_mtime_ns == written
    assert [plan.approved for plan in world.store.plans(job)] == [False, True]


def test_a_trial_that_ended_before_is_not_trained_again(make_world, spec):
    world = make_world()
    job = world.submit(spec(grouping=grouping(num_groups=1)))
    plant(world.folder(job), "try-g1", dict.fromkeys(TASKS, [1.0] * 9))
    plant(world.folder(job), "try-alone-art", {"art": [1.0] * 9})
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    (started,) = [event for event in world.store.events(job) if event.kind == "trials_started"]
    assert list(started.data["groups"]) == ["try-alone-clipart", "try-alone-photo"]


def test_a_trial_that_fails_keeps_its_group_out_of_consideration_and_the_job_goes_on(make_world, spec, monkeypatch):
    from workers.training.run import GroupRun

    finish = GroupRun.finish_validation

    def failing(self: GroupRun, check: Callable[[], None]) -> Any:
        if len(self.work.tasks) == 3:
            raise ValueError("not this one")
        return finish(self, check)

    monkeypatch.setattr(GroupRun, "finish_validation", failing)
    world = make_world()
    job = world.submit(spec())
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    found = arbitration(world.folder(job))
    failed = {tuple(group.tasks): group.failure for group in found.tested}
    assert failed[TASKS] == "not this one" and failed[("art",)] is None
    assert found.groups.keys() and list(TASKS) not in found.groups.values()
    states = {group.kind: group.state for group in world.store.groups(job) if len(group.tasks) == 3}
    assert states["trial"] == "failed"


def test_a_group_that_the_first_round_asks_for_is_tested_before_it_may_be_chosen(make_world, spec):
    world = make_world()
    job = world.submit(spec(grouping=grouping(num_groups=1)))
    right, wrong = [1.0] * 9, [0.0] * 9
    together = {"art": right, "clipart": right, "photo": wrong}  # photo loses by the others, and they gain
    plant(world.folder(job), "try-g1", together)
    for task in TASKS:
        plant(world.folder(job), f"try-alone-{task}", {task: right if task == "photo" else wrong})
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    found = arbitration(world.folder(job))
    again = [(group.id, list(group.tasks)) for group in world.store.groups(job) if "again" in group.id]
    assert again == [("try-again-g1", ["art", "clipart"])]
    assert (found.actions[0].kind, found.actions[0].tasks) == ("left", ["photo"])
    assert found.num_rounds == 2 and [group.tasks for group in found.tested if group.round == 2] == [["art", "clipart"]]


def test_trials_follow_the_methods_features(make_world, spec):
    world = make_world()
    method = {"kind": "clip_adapter", "sharing": "grouped"}
    job = world.submit(spec(method=method))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert {trial.state for trial in world.store.groups(job) if trial.kind == "trial"} == {"done"}


def test_limits_hold_for_the_plan_that_follows(make_world, spec):
    world = make_world()
    job = world.submit(spec(grouping=grouping(pinned=[["art", "photo"]])))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    plan = Plan.model_validate(read_sealed(world.folder(job) / plan_path(1)))
    assert plan.origin == "arbitrated" and ["art", "photo"] in [group.tasks for group in plan.groups]


def test_a_trial_is_the_training_itself_at_a_share_of_its_length():
    training = TrainConfig(epochs=10, batch_size=4, warmup_epochs=2)
    short = trial_training(training, 0.1, {"a": 40, "b": 8})
    assert (short.max_steps, short.warmup_epochs, short.validations) == (10, 0, 1)
    assert short.model_copy(update={"max_steps": None, "warmup_epochs": 2, "validations": 5}) == training
    whole = trial_training(training, 1.0, {"a": 40})
    assert (whole.max_steps, whole.warmup_epochs) == (100, 2)
    assert trial_training(TrainConfig(max_steps=3), 0.1, {"a": 40}).max_steps == 1
