"""Laws of the stage that groups: every plan is reviewed once, before anybody approves it, and wishes are heard."""

import html
import json
import threading
from typing import Any

import pytest

from grouping.given import plan_of_groups
from grouping.plan import Plan
from grouping.review import Review
from service.artifacts import JobFiles, plan_path, review_path
from service.measurements import read_measurement
from service.stages.aside import aside
from service.stages.run import Interrupted, JobRun
from service.states import Desired, JobState
from service.store import Store
from workers.launching.inline import InlineLauncher


class RegrettingStore(Store):
    """A store whose user cancels the job as soon as there is a plan."""

    def add_plan(self, job_id: str, *given: Any, **settings: Any) -> int | None:
        number = super().add_plan(job_id, *given, **settings)
        self.set_desired(job_id, Desired.CANCEL)
        return number


def review_of(files: JobFiles, number: int) -> Review:
    return Review.model_validate_json(files.read_text(review_path(number)))


def run_of(world, job: str) -> JobRun:
    """The job's next attempt, by hand."""
    attempt = world.store.start_attempt(job)
    spec = world.store.get_job(job).spec
    return JobRun(job, attempt, spec, world.store, world.files(job), InlineLauncher(), world.settings)


def test_a_finished_job_leaves_the_review_of_the_plan_that_trained_in_its_bundle(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(baselines=[]))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    found = review_of(world.files(job), 0)
    assert found.confidence is not None
    assert found.confidence.task_names == ["art", "clipart", "photo"]
    bundle = world.folder(job) / "bundle"
    assert Review.model_validate_json((bundle / "plan-review.json").read_text()) == found
    assert "plan-review.json" in json.loads((bundle / "manifest.json").read_text())["files"]
    assert found.confidence.sentence in html.unescape((bundle / "report.html").read_text())
    (event,) = [event for event in world.store.events(job) if event.kind == "reviewed"]
    assert event.message == f"Plan 0: {found.confidence.sentence}"
    assert event.data == {"plan": 0, "word": found.confidence.word}


@pytest.mark.parametrize("sharing", ["alone", "all"])
def test_a_plan_without_measurements_has_no_review(make_world, make_spec, sharing: str):
    world = make_world()
    spec = make_spec(baselines=[])
    job = world.submit(spec.model_copy(update={"method": spec.method.model_copy(update={"sharing": sharing})}))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert not world.files(job).exists(review_path(0))
    assert not (world.folder(job) / "bundle" / "plan-review.json").exists()


def test_a_plan_is_reviewed_before_it_waits_for_approval_and_only_once(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(baselines=[], grouping={"approve": True}))
    assert world.attempt(job) == JobState.AWAITING_APPROVAL, world.why(job)
    files = world.files(job)
    review_of(files, 0)
    written = files.path(review_path(0)).stat().st_mtime_ns

    plan = plan_of_groups(
        read_measurement(files),
        {"g1": ["art", "photo"], "g2": ["clipart"]},
        make_spec().grouping,
        origin="edited",
        summary="A person's groups.",
    )
    edited = world.store.add_plan(
        job, plan.outline(), lambda n: files.write_text(plan_path(n), plan.model_dump_json()), approved=False
    )
    world.store.approve_plan(job, edited)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert files.path(review_path(0)).stat().st_mtime_ns == written
    found = review_of(files, edited)
    assert found.second_opinion is not None
    bundle = world.folder(job) / "bundle"
    assert Plan.model_validate_json((bundle / "plan.json").read_text()).groups == plan.groups
    assert Review.model_validate_json((bundle / "plan-review.json").read_text()) == found


def test_a_resumed_attempt_reviews_what_has_no_review(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(baselines=[], grouping={"approve": True}))
    assert world.attempt(job) == JobState.AWAITING_APPROVAL, world.why(job)
    files = world.files(job)
    before = review_of(files, 0)
    files.path(review_path(0)).unlink()
    world.store.approve_plan(job, 0)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    assert review_of(files, 0) == before


def test_a_plan_that_is_gone_is_written_again_with_the_groups_that_were_approved(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(baselines=[], grouping={"approve": True, "num_groups": 2}))
    assert world.attempt(job) == JobState.AWAITING_APPROVAL, world.why(job)
    files = world.files(job)
    before = Plan.model_validate_json(files.read_text(plan_path(0)))
    files.path(plan_path(0)).unlink()
    world.store.approve_plan(job, 0)
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    after = Plan.model_validate_json(files.read_text(plan_path(0)))
    assert after.outline() == before.outline()
    assert after.groups == before.groups
    assert (after.similarity, after.verdict) == (before.similarity, before.verdict)


@pytest.mark.parametrize(("wish", "to"), [(Desired.CANCEL, JobState.CANCELLED), (Desired.PAUSE, JobState.PAUSED)])
def test_a_wish_is_heard_while_something_long_is_worked_out(make_world, make_spec, wish: Desired, to: JobState):
    world = make_world()
    job = world.submit(make_spec())
    run, over = run_of(world, job), threading.Event()

    def work() -> None:
        world.store.set_desired(job, wish)
        assert over.wait(60)

    with pytest.raises(Interrupted) as caught:
        aside(run, work)
    over.set()
    assert caught.value.to == to


def test_what_goes_wrong_aside_is_raised_by_the_stage(make_world, make_spec):
    world = make_world()
    run = run_of(world, world.submit(make_spec()))

    def refuse() -> int:
        raise ValueError("two tasks, and three were expected")

    assert aside(run, lambda: 7) == 7
    with pytest.raises(ValueError, match="two tasks, and three were expected"):
        aside(run, refuse)


def test_a_job_that_is_cancelled_during_its_review_has_none(make_world, make_spec):
    world = make_world(RegrettingStore("sqlite://"))
    job = world.submit(make_spec())
    assert world.attempt(job) == JobState.CANCELLED, world.why(job)
    assert world.files(job).exists(plan_path(0))
    assert not world.files(job).exists(review_path(0))


def test_the_plan_that_is_put_to_the_test_is_reviewed_before_the_one_that_comes_of_it(make_world, make_spec):
    world = make_world()
    job = world.submit(make_spec(baselines=[], grouping={"arbitrate": True}))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    files = world.files(job)
    review_of(files, 0)
    assert review_of(files, 1).second_opinion is not None
    kinds = [event.kind for event in world.store.events(job) if event.kind in ("planned", "reviewed", "arbitrated")]
    assert kinds[:2] == ["planned", "reviewed"]
    assert kinds[-1] == "reviewed"
