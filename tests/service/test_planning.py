"""Laws of plans that people ask for: from what was measured, beside the job's own, and never half-written."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from grouping.plan import trivial_plan
from grouping.review import Review
from service.artifacts import JobFiles, review_path
from service.errors import Conflict, IdempotencyConflict, PlanNotFound, SpecError
from service.measurements import DATASETS, MEASUREMENT, SIGNATURES, read_measurement
from service.planning import MAX_PLANS, Planner
from service.settings import Settings
from service.stages.group import group
from service.stages.run import JobRun
from service.states import JobState
from service.store import Store
from tests.measured import NAMES, PLANTED, measured_job, write_signatures
from workers.launching.inline import InlineLauncher


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def store() -> Store:
    return Store("sqlite://")


@pytest.fixture
def planner(store: Store, settings: Settings) -> Iterator[Planner]:
    planner = Planner(store, settings)
    yield planner
    planner.close()


def asks(**asked) -> bytes:
    return json.dumps(asked).encode()


def finish_reviews(planner: Planner) -> None:
    """Waits for the reviews asked for so far: they are worked out one after another."""
    queue = planner._reviews._queue
    assert queue is not None
    queue.submit(lambda: None).result(timeout=120)


def test_other_settings_give_another_plan_and_the_jobs_own_stays(
    planner: Planner, store: Store, settings: Settings
) -> None:
    job = measured_job(store, settings)
    first = planner.add(job, asks(settings={}))
    assert first.groups == PLANTED
    assert (first.number, first.origin, first.asked, first.approved) == (0, "gradients", True, False)
    second = planner.add(job, asks(settings={"num_groups": 3, "must_link": [["a", "b"]]}))
    assert second.number == 1
    assert len(second.groups) == 3
    assert second.settings.must_link == [("a", "b")]
    assert [plan.number for plan in planner.plans(job).plans] == [0, 1]
    assert planner.plan(job, 0).groups == PLANTED
    assert store.get_job(job).state == JobState.SUCCEEDED


def test_what_is_not_changed_is_as_the_job_has_it(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings, grouping={"max_group_size": 2, "arbitrate": False, "approve": True})
    plan = planner.add(job, asks(settings={"seed": 5}))
    assert max(map(len, plan.groups.values())) <= 2
    assert (plan.settings.max_group_size, plan.settings.seed, plan.settings.approve) == (2, 5, False)
    freed = planner.add(job, asks(settings={"max_group_size": None}))
    assert sorted(freed.groups.values()) == sorted(PLANTED.values())


def test_given_groups_are_kept_as_they_are_with_their_ids(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings)
    groups = {"g7": ["a", "b", "c"], "g2": ["d", "e", "f"]}
    plan = planner.add(job, asks(groups=groups))
    assert plan.groups == groups
    assert (plan.origin, plan.solver) == ("edited", "given")
    assert plan.objective["chosen"] < planner.add(job, asks(settings={})).objective["chosen"]


def test_groups_keep_the_ids_of_the_plan_that_trains(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings, JobState.AWAITING_APPROVAL)
    planner.add(job, asks(groups={"g5": ["a", "c", "e"], "g9": ["b", "d", "f"]}))
    store.approve_plan(job, 0)
    assert planner.add(job, asks(settings={})).groups == {"g5": ["a", "c", "e"], "g9": ["b", "d", "f"]}


def test_what_ifs_do_not_change_the_ids_that_are_kept(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings, JobState.GROUPING)
    group(JobRun(job, 1, store.get_job(job).spec, store, JobFiles(settings.storage, job), InlineLauncher(), settings))
    planner.add(job, asks(groups={"g8": ["a", "c", "e"], "g9": ["b", "d", "f"]}))
    assert planner.add(job, asks(settings={})).groups == PLANTED


def test_the_cost_cap_counts_the_jobs_training_images(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings)
    plan = planner.add(job, asks(settings={"max_group_cost": 16}))
    assert max(map(len, plan.groups.values())) == 2
    with pytest.raises(SpecError, match="max_group_cost=4 is less"):
        planner.add(job, asks(settings={"max_group_cost": 4}))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "neither settings nor groups given"),
        ({"setings": {}}, "Did you mean 'settings'"),
        ({"settings": {"num_grops": 2}}, "settings.num_grops: unknown key 'num_grops'. Did you mean 'num_groups'"),
        ({"settings": {"num_groups": 0}}, "num_groups=0 must be at least 1"),
        ({"settings": {"num_groups": 7}}, "num_groups=7 exceeds the 6 tasks"),
        ({"settings": {"max_group_size": 0}}, "given 0; expected: Input should be greater than or equal to 1"),
        ({"settings": {"similarity": "guess"}}, "given 'guess'"),
        ({"settings": {"similarity": "text"}}, "needs text_centroids, which were not measured"),
        ({"settings": {"must_link": [["a", "z"]]}}, "must_link names 'z', which is no task of this job"),
        ({"settings": {"arbitrate": True}}, "'arbitrate' given, but a plan is asked for without training"),
        ({"groups": {"g1": ["a", "b"]}}, "no group holds 'c', 'd', 'e', 'f'"),
        ({"groups": {"g1": list(NAMES), "g2": ["a"]}}, "'a' stands in g1 and again in g2"),
        ({"groups": {"g1": [*NAMES, "z"]}}, "g1 names 'z', which is no task of this job"),
        ({"groups": {"mine": list(NAMES)}}, "'mine' is no id of a group"),
        ({"groups": {"g1": list(NAMES)}, "settings": {"cannot_link": [["a", "b"]]}}, "cannot_link parts them"),
        ({"groups": ["a"]}, "groups"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_nothing_is_written(
    planner: Planner, store: Store, settings: Settings, asked: dict, told: str
) -> None:
    job = measured_job(store, settings)
    events = len(store.events(job))
    with pytest.raises(SpecError) as refused:
        planner.add(job, asks(**asked))
    assert told in str(refused.value)
    assert store.plans(job) == []
    assert len(store.events(job)) == events
    assert not JobFiles(settings.storage, job).exists("plans")


def test_what_is_announced_as_json_is_json(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings)
    assert planner.add(job, b"settings: {num_groups: 2}").groups == PLANTED
    with pytest.raises(SpecError, match="announced as JSON but is none"):
        planner.add(job, b"settings: {num_groups: 2}", json_only=True)


@pytest.mark.parametrize("sharing", ["alone", "all"])
def test_a_job_that_forms_no_groups_has_no_other_plans(
    planner: Planner, store: Store, settings: Settings, sharing: str
) -> None:
    job = measured_job(store, settings, method={"kind": "mmap", "sharing": sharing})
    store.add_plan(job, trivial_plan(NAMES, "alone").outline(), lambda number: None)
    with pytest.raises(Conflict, match="nothing was measured"):
        planner.add(job, asks(settings={}))
    with pytest.raises(Conflict, match="forms no groups"):
        planner.run(job, 0, idempotency_key=None)


def test_a_job_without_signatures_says_so(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings, JobState.PROFILING)
    JobFiles(settings.storage, job).path(SIGNATURES).unlink()
    with pytest.raises(Conflict, match="it is PROFILING, and they come with the stage `profile`"):
        planner.add(job, asks(settings={}))


def test_tasks_that_are_not_measured_yet_are_named(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings)
    write_signatures(JobFiles(settings.storage, job), NAMES[:4])
    with pytest.raises(Conflict, match="no signatures of 'e', 'f'"):
        planner.add(job, asks(settings={}))


def test_a_measurement_is_kept_until_the_signatures_change(store: Store, settings: Settings) -> None:
    files = JobFiles(settings.storage, measured_job(store, settings))
    first = read_measurement(files)
    written = files.path(MEASUREMENT).stat().st_mtime_ns
    assert (read_measurement(files).cosines_STT == first.cosines_STT).all()
    assert files.path(MEASUREMENT).stat().st_mtime_ns == written
    write_signatures(files, NAMES, seed=1)
    assert (read_measurement(files).cosines_STT != first.cosines_STT).any()
    assert files.path(MEASUREMENT).stat().st_mtime_ns != written


def test_two_that_ask_at_once_get_two_plans(tmp_path: Path, settings: Settings) -> None:
    store = Store(f"sqlite:///{tmp_path / 'cohort.db'}")
    store.create_schema()
    job = measured_job(store, settings)
    planners = [Planner(Store(f"sqlite:///{tmp_path / 'cohort.db'}"), settings) for _ in range(4)]
    barrier = Barrier(len(planners))

    def ask(number: int) -> int:
        barrier.wait()
        return planners[number].add(job, asks(settings={"num_groups": number + 1})).number

    try:
        with ThreadPoolExecutor(len(planners)) as pool:
            assert sorted(pool.map(ask, range(len(planners)))) == [0, 1, 2, 3]
        for row in store.plans(job):
            plan = JobFiles(settings.storage, job).read_json(f"plans/{row.number}.json")
            assert len(plan["groups"]) == len(row.outline.groups) == row.outline.settings.num_groups
    finally:
        for planner in planners:
            planner.close()


def test_a_job_keeps_a_hundred_plans(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings)
    outline = trivial_plan(NAMES, "all").outline()
    for _ in range(MAX_PLANS - 1):
        store.add_plan(job, outline, lambda number: None)
    assert planner.add(job, asks(settings={})).number == MAX_PLANS - 1
    with pytest.raises(Conflict, match=f"has {MAX_PLANS} plans; a job keeps at most {MAX_PLANS}"):
        planner.add(job, asks(settings={}))
    assert not JobFiles(settings.storage, job).exists(f"plans/{MAX_PLANS}.json")


def test_a_plan_asked_for_before_the_jobs_own_does_not_take_its_place(
    planner: Planner, store: Store, settings: Settings
) -> None:
    job = measured_job(store, settings, JobState.PROFILING)
    planner.add(job, asks(settings={"num_groups": 3}))
    spec, files = store.get_job(job).spec, JobFiles(settings.storage, job)
    group(JobRun(job, 1, spec, store, files, InlineLauncher(), settings))
    assert [(plan.approved, plan.attempt) for plan in store.plans(job)] == [(False, None), (True, 1)]
    assert planner.plan(job, 1).groups.keys() == PLANTED.keys()


def test_a_finished_job_answers_what_ifs_from_its_own_signatures(make_world, make_spec) -> None:
    world = make_world()
    job = world.submit(make_spec(baselines=[]))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    planner = Planner(world.store, world.settings)
    plan = planner.add(job, asks(settings={"num_groups": 3, "similarity": "tag"}))
    assert sorted(tasks for [tasks] in plan.groups.values()) == ["art", "clipart", "photo"]
    assert planner.compare(job, 0, 1).first == 0
    assert planner.plan(job, 0).review_state == "done"
    planner.close()


def test_a_review_follows_a_plan(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings)
    plan = planner.add(job, asks(settings={}))
    assert (plan.review, plan.review_state) == (None, "pending")
    finish_reviews(planner)
    plan = planner.plan(job, 0)
    assert plan.review_state == "done"
    review = Review.model_validate(plan.review)
    assert review.confidence is not None and review.confidence.word == "firm"
    assert review.second_opinion is not None


def test_a_review_that_a_stopped_service_left_undone_is_made_at_the_next_look(
    planner: Planner, store: Store, settings: Settings
) -> None:
    job = measured_job(store, settings)
    planner.add(job, asks(settings={}))
    planner.close()
    assert not JobFiles(settings.storage, job).exists(review_path(0))
    assert planner.plan(job, 0).review_state == "pending"
    finish_reviews(planner)
    assert planner.plan(job, 0).review_state == "done"


def test_a_review_that_fails_says_why_and_is_not_tried_at_every_look(
    planner: Planner, store: Store, settings: Settings
) -> None:
    job = measured_job(store, settings)
    planner.add(job, asks(settings={}))
    planner.close()
    JobFiles(settings.storage, job).write_text(DATASETS, "{}")
    planner.plan(job, 0)
    finish_reviews(planner)
    plan = planner.plan(job, 0)
    assert (plan.review_state, plan.review_problem) == ("failed", "KeyError: 'tasks'")
    assert planner._reviews._pending == set()


def test_the_driver_reviews_its_own_plans(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings, JobState.TRAINING)
    plan = planner.add(job, asks(settings={})).plan
    store.add_plan(
        job,
        store.plans(job)[0].outline,
        lambda number: JobFiles(settings.storage, job).write_json(f"plans/{number}.json", plan) and None,
        attempt=1,
    )
    planner.close()
    assert planner.plan(job, 1).review_state == "pending"
    assert planner._reviews._pending == set()


def test_the_process_that_reviews_loads_neither_torch_nor_ray() -> None:
    code = "import sys, service.reviews; print([name for name in ('torch', 'ray', 'fastapi') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_two_plans_are_compared_on_one_objective(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings)
    planner.add(job, asks(settings={}))
    planner.add(job, asks(groups={"g1": ["a", "c", "e", "b"], "g2": ["d", "f"]}))
    found = planner.compare(job, 0, 1)
    assert [(move.task, move.first_group, move.second_group) for move in found.moved] == [("b", "g2", "g1")]
    assert found.moved[0].gained == ["a", "c", "e"]
    assert found.first_objective is not None and found.second_objective is not None
    assert found.first_objective > found.second_objective
    assert "b (from g2 to g1)" in found.sentence
    assert planner.compare(job, 1, 1).moved == []
    with pytest.raises(PlanNotFound, match="has no plan 2; it has '0', '1'"):
        planner.compare(job, 0, 2)


def test_a_plan_of_a_finished_job_is_run_as_a_child(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings, grouping={"approve": True, "max_group_size": 4}, baselines=["zero_shot"])
    planner.add(job, asks(settings={"num_groups": 3}))
    child, created = planner.run(job, 0, idempotency_key="k")
    assert created
    assert (child.parent, child.parent_plan, child.name, child.state) == (job, 0, "measured", JobState.QUEUED)
    grouping = child.spec.grouping
    assert (grouping.num_groups, grouping.max_group_size, grouping.approve) == (3, 4, False)
    assert child.spec.model_copy(update={"grouping": None}) == store.get_job(job).spec.model_copy(
        update={"grouping": None}
    )
    assert planner.run(job, 0, idempotency_key="k") == (child, False)
    planner.add(job, asks(settings={"num_groups": 3}))
    with pytest.raises(IdempotencyConflict):
        planner.run(job, 1, idempotency_key="k")
    with pytest.raises(PlanNotFound):
        planner.run(job, 2, idempotency_key=None)


def test_a_plan_of_a_job_that_runs_is_not_run_again(planner: Planner, store: Store, settings: Settings) -> None:
    job = measured_job(store, settings, JobState.TRAINING)
    planner.add(job, asks(settings={}))
    with pytest.raises(Conflict, match="once it is finished"):
        planner.run(job, 0, idempotency_key=None)
