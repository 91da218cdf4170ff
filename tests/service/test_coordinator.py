"""Laws of the loop that brings what is towards what is wished, on a fake Ray and a clock that a test turns by hand."""

import threading

import pytest
from sqlalchemy import update

from grouping.plan import trivial_plan
from service import tables
from service.clock import FakeClock
from service.coordinator import Coordinator
from service.errors import RayUnavailable, UnreadableSpec
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import Desired, JobState
from service.store import Job, Store
from workers.failures import FailureClass

SPEC = parse_spec("{name: office, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")


class World:
    """A store, a fake Ray, a coordinator, and the time."""

    def __init__(self, tmp_path) -> None:
        self.clock = FakeClock()
        self.chance = 1.0
        self.settings = Settings(
            home=tmp_path, max_running_jobs=2, max_attempts=3, backoff_seconds=5.0, cancel_grace_seconds=20.0
        )
        self.store = Store("sqlite://", now=self.clock.time)
        self.ray = FakeRayJobs()
        self.restart()

    def restart(self) -> None:
        self.coordinator = Coordinator(
            self.store, self.ray, self.settings, clock=self.clock, chance=lambda: self.chance
        )

    def submit(self) -> str:
        return self.store.create_job(SPEC)[0].id

    def job(self, job_id: str) -> Job:
        return self.store.get_job(job_id)

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.coordinator.tick()

    def training(self) -> str:
        job_id = self.submit()
        self.tick()
        for state in (JobState.VALIDATING, JobState.GROUPING, JobState.TRAINING):
            assert self.store.move(job_id, state, attempt=self.job(job_id).attempt)
        return job_id


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_a_queued_job_gets_its_first_attempt(world: World) -> None:
    job_id = world.submit()
    world.tick()
    job = world.job(job_id)
    assert (job.state, job.attempt, job.submission_id) == (JobState.STARTING, 1, f"{job_id}-a1")
    assert world.ray.status(f"{job_id}-a1") == "RUNNING"


def test_no_more_jobs_run_than_there_is_room_for_and_the_oldest_go_first(world: World) -> None:
    ids = [world.submit() for _ in range(4)]
    world.tick()
    assert [world.job(job_id).state for job_id in ids] == ["STARTING", "STARTING", "QUEUED", "QUEUED"]
    world.ray.finish(f"{ids[0]}-a1", "SUCCEEDED")
    for state in (JobState.VALIDATING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING, JobState.SUCCEEDED):
        world.store.move(ids[0], state, attempt=1)
    world.tick()
    assert [world.job(job_id).state for job_id in ids] == ["SUCCEEDED", "STARTING", "STARTING", "QUEUED"]


def test_looking_twice_changes_nothing(world: World) -> None:
    job_id = world.training()
    before = (world.job(job_id), world.store.events(job_id))
    world.tick()
    world.tick()
    assert before == (world.job(job_id), world.store.events(job_id))


def test_a_driver_that_died_is_followed_by_another_after_a_pause_that_doubles(world: World) -> None:
    job_id = world.training()
    world.ray.finish(f"{job_id}-a1", "FAILED", "Traceback\nOSError: no")
    world.tick()
    job = world.job(job_id)
    assert (job.state, job.failures) == (JobState.QUEUED, 1)
    assert job.reason is not None and "OSError: no" in job.reason and "5 s" in job.reason
    world.tick(4.9)
    assert world.job(job_id).state == JobState.QUEUED
    world.tick(0.2)
    assert (world.job(job_id).state, world.job(job_id).attempt) == (JobState.STARTING, 2)
    world.ray.finish(f"{job_id}-a2", "STOPPED")
    world.tick()
    world.tick(9.9)
    assert world.job(job_id).state == JobState.QUEUED
    world.tick(0.2)
    assert world.job(job_id).attempt == 3


def test_after_the_last_attempt_the_job_failed_and_says_why(world: World) -> None:
    job_id = world.training()
    for attempt in (1, 2, 3):
        world.ray.finish(f"{job_id}-a{attempt}", "FAILED", f"boom {attempt}")
        world.tick()
        world.tick(60)
    job = world.job(job_id)
    assert (job.state, job.attempt, job.failures) == (JobState.FAILED, 3, 3)
    assert job.reason is not None and "boom 3" in job.reason and "last of 3 attempts" in job.reason
    assert job.finished_at is not None


def test_a_driver_that_ended_well_but_moved_nothing_is_no_success(world: World) -> None:
    job_id = world.training()
    world.ray.finish(f"{job_id}-a1", "SUCCEEDED")
    world.tick()
    assert (world.job(job_id).state, world.job(job_id).failures) == (JobState.QUEUED, 1)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PAUSED, JobState.AWAITING_APPROVAL])
def test_a_job_without_a_driver_is_cancelled_at_once_even_when_ray_is_away(world: World, state: JobState) -> None:
    job_id = world.submit()
    if state != JobState.QUEUED:
        world.tick()
        for step in (JobState.VALIDATING, JobState.GROUPING, state):
            world.store.move(job_id, step, attempt=1)
    world.ray.reachable = False
    world.store.set_desired(job_id, Desired.CANCEL)
    world.tick()
    assert world.job(job_id).state == JobState.CANCELLED


def test_a_driver_that_ignores_a_cancel_is_ended_after_its_grace(world: World) -> None:
    job_id = world.training()
    world.store.set_desired(job_id, Desired.CANCEL)
    world.tick(19)
    assert (world.job(job_id).state, world.ray.status(f"{job_id}-a1")) == (JobState.TRAINING, "RUNNING")
    world.tick(2)
    assert (world.job(job_id).state, world.ray.status(f"{job_id}-a1")) == (JobState.CANCELLED, "STOPPED")


def test_a_driver_that_dies_while_cancelled_or_paused_is_not_tried_again(world: World) -> None:
    for desired, state in ((Desired.CANCEL, JobState.CANCELLED), (Desired.PAUSE, JobState.PAUSED)):
        job_id = world.training()
        world.store.set_desired(job_id, desired)
        world.ray.finish(f"{job_id}-a1", "FAILED")
        world.tick()
        assert (world.job(job_id).state, world.job(job_id).failures) == (state, 0)


def test_pause_and_resume_start_an_attempt_that_no_budget_counts(world: World) -> None:
    job_id = world.training()
    for attempt in range(1, 6):
        world.store.set_desired(job_id, Desired.PAUSE)
        world.store.move(job_id, JobState.PAUSED, attempt=attempt)
        world.ray.finish(f"{job_id}-a{attempt}", "SUCCEEDED")
        world.tick(100)
        assert world.job(job_id).state == JobState.PAUSED
        world.store.set_desired(job_id, Desired.RUN)
        world.tick()
        job = world.job(job_id)
        assert (job.state, job.attempt, job.failures) == (JobState.STARTING, attempt + 1, 0)


def test_a_queued_job_can_be_paused_and_resumed_without_a_driver(world: World) -> None:
    job_id = world.submit()
    world.store.set_desired(job_id, Desired.PAUSE)
    world.tick()
    assert (world.job(job_id).state, world.job(job_id).attempt) == (JobState.PAUSED, 0)
    world.store.set_desired(job_id, Desired.RUN)
    world.tick()
    assert world.job(job_id).attempt == 1


def test_only_an_approved_plan_goes_on_and_no_budget_counts_it(world: World) -> None:
    job_id = world.submit()
    world.tick()
    for state in (JobState.VALIDATING, JobState.GROUPING):
        world.store.move(job_id, state, attempt=1)
    world.store.add_plan(job_id, trivial_plan(["a"], "alone").outline(), lambda number: None, attempt=1)
    world.store.move(job_id, JobState.AWAITING_APPROVAL, attempt=1)
    world.ray.finish(f"{job_id}-a1", "SUCCEEDED")
    world.tick(1000)
    assert world.job(job_id).state == JobState.AWAITING_APPROVAL
    world.store.approve_plan(job_id, 0)
    world.tick()
    job = world.job(job_id)
    assert (job.state, job.attempt, job.failures) == (JobState.STARTING, 2, 0)


def test_a_waiting_job_holds_no_room(world: World) -> None:
    waiting = [world.training() for _ in range(2)]
    for job_id in waiting:
        world.store.move(job_id, JobState.PAUSED, attempt=1)
        world.store.set_desired(job_id, Desired.PAUSE)
    assert world.job(world.training()).state == JobState.TRAINING


def test_a_new_coordinator_adopts_what_runs(world: World) -> None:
    job_id = world.training()
    world.restart()
    world.tick(3600)
    assert (world.job(job_id).state, world.job(job_id).attempt) == (JobState.TRAINING, 1)


def test_an_attempt_that_was_begun_but_never_submitted_is_submitted(world: World) -> None:
    job_id = world.submit()
    world.store.start_attempt(job_id)
    assert world.ray.status(f"{job_id}-a1") is None
    world.tick()
    assert (world.job(job_id).attempt, world.ray.status(f"{job_id}-a1")) == (1, "RUNNING")


def test_a_job_that_ray_refuses_holds_up_no_other_and_is_given_up(world: World) -> None:
    class Choosy(FakeRayJobs):
        def submit(self, job_id: str, attempt: int, name: str) -> str:
            if job_id == refused:
                raise RayUnavailable("500")
            return super().submit(job_id, attempt, name)

    world.ray = Choosy()
    world.restart()
    refused, other = world.submit(), world.submit()
    world.tick()
    assert world.ray.status(f"{other}-a1") == "RUNNING"
    for _ in range(3):
        world.tick(60)
        assert world.job(refused).state in (JobState.QUEUED, JobState.FAILED)
        world.tick(60)
    assert (world.job(refused).state, world.job(other).state) == (JobState.FAILED, JobState.STARTING)


def test_jobs_of_a_head_that_was_lost_start_anew_and_no_budget_counts_it(world: World) -> None:
    job_id = world.training()
    for attempt in range(2, 12):
        world.ray.forget()
        world.tick()
        job = world.job(job_id)
        assert (job.state, job.attempt, job.failures) == (JobState.STARTING, attempt, 0)
        world.store.move(job_id, JobState.VALIDATING, attempt=attempt)
    assert any("Ray does not know its driver any more" in event.message for event in world.store.events(job_id))
    world.ray.finish(f"{job_id}-a11", "FAILED", "killed")
    world.tick()
    assert (world.job(job_id).state, world.job(job_id).failures) == (JobState.QUEUED, 1)


@pytest.mark.parametrize("restarted", [False, True], ids=["watched", "after a restart of the service"])
def test_a_head_that_is_lost_while_an_attempt_starts_costs_no_attempt_however_long_it_is_away(
    world: World, restarted: bool
) -> None:
    job_id = world.submit()
    world.tick()
    world.ray.forget()
    world.ray.reachable = False
    world.tick(3600)
    world.ray.reachable = True
    if restarted:
        world.restart()
    world.tick(30)
    job = world.job(job_id)
    assert (job.state, job.attempt, job.failures) == (JobState.STARTING, 1, 0)
    assert world.ray.status(f"{job_id}-a1") == "RUNNING"


def test_without_ray_everything_waits_and_nothing_is_used_up(world: World) -> None:
    running, queued = world.training(), world.submit()
    world.ray.reachable = False
    world.tick(3600)
    assert not world.coordinator.ray_answers
    assert (world.job(running).state, world.job(queued).state) == (JobState.TRAINING, JobState.QUEUED)
    assert world.job(queued).attempt == 0
    world.ray.reachable = True
    world.tick()
    assert world.coordinator.ray_answers
    assert (world.job(running).attempt, world.job(queued).attempt) == (1, 1)


def test_a_driver_that_moves_its_job_at_the_last_moment_wins(world: World) -> None:
    job_id = world.training()

    class LastMoment(FakeRayJobs):
        """Its driver ends between the coordinator's look at the job and its look at Ray."""

        def status(self, submission: str) -> str:
            for state in (JobState.PUBLISHING, JobState.SUCCEEDED):
                world.store.move(job_id, state, attempt=1)
            return "SUCCEEDED"

    world.ray = LastMoment()
    world.restart()
    world.tick()
    assert (world.job(job_id).state, world.job(job_id).failures) == (JobState.SUCCEEDED, 0)


def test_the_loop_goes_on_after_a_look_that_failed(world: World) -> None:
    stop, looks = threading.Event(), []

    class Breaking(Coordinator):
        def tick(self) -> None:
            looks.append(1)
            if len(looks) == 3:
                stop.set()
            raise OSError("disk")

    settings = world.settings.model_copy(update={"poll_seconds": 0.001})
    Breaking(world.store, world.ray, settings).run(stop)
    assert len(looks) == 3


def test_a_driver_that_nobody_waits_for_is_ended_and_no_other(world: World) -> None:
    stale = world.training()
    world.store.move(stale, JobState.QUEUED, attempt=1)  # taken back, but its driver lives on
    world.tick()
    assert world.job(stale).attempt == 2
    mine = world.training()
    world.ray.submit("job-of-another-service", 1, "another")
    world.tick(15)
    left = {f"{stale}-a2", f"{mine}-a1", "job-of-another-service-a1"}
    assert set(world.ray.unfinished()) == left | {f"{stale}-a1"}  # it had no time to end by itself yet
    world.tick(10)
    assert set(world.ray.unfinished()) == left


def test_a_driver_may_outlive_its_finished_job_for_a_moment_only(world: World) -> None:
    job_id = world.training()
    for state in (JobState.PUBLISHING, JobState.SUCCEEDED):
        world.store.move(job_id, state, attempt=1)
    world.tick(5)
    assert f"{job_id}-a1" in world.ray.unfinished()
    world.tick(20)
    world.tick(20)
    assert world.ray.unfinished() == {}


def test_what_broke_together_does_not_come_back_together(world: World) -> None:
    waits = set()
    for chance in (0.1, 0.5, 0.9):
        job_id, world.chance = world.training(), chance
        world.ray.finish(f"{job_id}-a1", "FAILED")
        world.tick()
        assert f"{5 * chance:g} s" in str(world.job(job_id).reason)
        waits.add(world.job(job_id).reason)
        world.store.set_desired(job_id, Desired.CANCEL)
        world.tick()
    assert len(waits) == 3


def test_a_driver_that_runs_out_of_memory_is_tried_once_more(world: World) -> None:
    job_id = world.training()
    for attempt, state in ((1, JobState.QUEUED), (2, JobState.FAILED)):
        world.ray.finish(f"{job_id}-a{attempt}", "FAILED", "ray.exceptions.OutOfMemoryError: killed")
        world.tick()
        assert (world.job(job_id).state, world.job(job_id).failure) == (state, "out_of_memory")
        world.tick(60)


def test_what_a_driver_told_of_its_groups_is_not_what_it_died_of(world: World) -> None:
    job_id = world.training()
    told = "2026-11-21 20:44:33,123 INFO group_retried: drained: CUDA out of memory, on a machine that was preempted."
    for attempt in range(1, 4):
        world.ray.finish(f"{job_id}-a{attempt}", "FAILED", told)
        world.tick()
        assert (world.job(job_id).failures, world.job(job_id).failure) == (attempt, "infrastructure")
        world.tick(60)
    assert world.job(job_id).state is JobState.FAILED


def test_a_machine_that_was_taken_away_costs_no_attempt(world: World) -> None:
    job_id = world.training()
    for attempt in range(1, 11):
        world.ray.finish(f"{job_id}-a{attempt}", "FAILED", "the node of the job was preempted")
        world.tick()
        assert (world.job(job_id).attempt, world.job(job_id).failures) == (attempt + 1, 0)


def test_a_driver_that_falls_silent_is_ended_and_followed_by_another_and_one_that_speaks_is_not(world: World) -> None:
    silent, speaks = world.training(), world.training()
    for _ in range(40):
        world.tick(50)
        world.store.seen(speaks, 1)
    world.tick()
    job = world.job(silent)
    assert (job.attempt, job.failures) == (2, 1)
    told = " ".join(event.message for event in world.store.events(silent))
    assert "hung during TRAINING" in told and "1800 s" in told
    assert world.ray.status(f"{silent}-a1") == "STOPPED"
    assert (world.job(speaks).attempt, world.ray.status(f"{speaks}-a1")) == (1, "RUNNING")


def test_a_driver_that_waited_for_ray_to_come_back_was_not_silent(world: World) -> None:
    waits = world.training()
    world.tick(1700)
    world.ray.reachable = False
    world.tick()
    world.ray.reachable = True
    world.tick(200)
    world.tick(1700)
    assert (world.job(waits).attempt, world.ray.status(f"{waits}-a1")) == (1, "RUNNING")
    world.tick(101)
    world.tick()
    world.tick(60)
    assert world.job(waits).attempt == 2


def test_a_clock_that_jumps_makes_no_driver_silent_and_loses_no_lease(tmp_path) -> None:
    world = World(tmp_path)
    job_id = world.training()
    for hours in (1, -2, 3):
        world.clock.jump(hours * 3600)
        world.tick(world.settings.lease_seconds / 2)
    assert (world.job(job_id).state, world.job(job_id).attempt) == (JobState.TRAINING, 1)


def test_a_driver_that_ray_leaves_pending_is_given_up_after_a_minute(world: World) -> None:
    class Stuck(FakeRayJobs):
        def status(self, submission: str) -> str | None:
            status = super().status(submission)
            return "PENDING" if status == "RUNNING" else status

    world.ray = Stuck()
    world.restart()
    job_id = world.submit()
    world.tick()
    world.tick(59)
    assert world.job(job_id).state == JobState.STARTING
    world.tick(2)
    world.tick()
    assert (world.job(job_id).state, world.job(job_id).failures) == (JobState.QUEUED, 1)


def test_a_cancel_at_once_waits_for_nobody(world: World) -> None:
    job_id = world.training()
    world.store.set_desired(job_id, Desired.CANCEL)
    world.tick()
    assert world.job(job_id).state == JobState.TRAINING
    world.store.set_desired(job_id, Desired.CANCEL, at_once=True)
    world.tick()
    assert (world.job(job_id).state, world.ray.status(f"{job_id}-a1")) == (JobState.CANCELLED, "STOPPED")


@pytest.mark.parametrize("state", [JobState.TRAINING, JobState.QUEUED, JobState.PAUSED, JobState.AWAITING_APPROVAL])
def test_a_deadline_ends_a_job_wherever_it_stands_once_it_has_started(world: World, state: JobState) -> None:
    spec = SPEC.model_copy(update={"deadline_hours": 2.0})
    world.clock.advance(10)
    job_id = world.store.create_job(spec)[0].id
    world.tick()
    for step in (JobState.VALIDATING, JobState.GROUPING, state):
        assert world.store.move(job_id, step, attempt=1)
    if state == JobState.PAUSED:
        world.store.set_desired(job_id, Desired.PAUSE)
    if state == JobState.QUEUED:
        for _ in range(2):  # others take the room
            world.store.set_priority(world.submit(), 100)
        world.tick()
    world.tick(7199)
    assert world.job(job_id).state == state
    assert not world.store.wish(job_id).overdue
    world.tick(1)
    assert world.store.wish(job_id).overdue
    world.tick(20)  # a driver has the grace of a cancel to end by itself
    job = world.job(job_id)
    assert (job.state, job.failure) == (JobState.FAILED, "timeout")
    assert job.reason is not None and "deadline_hours=2" in job.reason
    assert world.ray.status(f"{job_id}-a1") == "STOPPED"


def test_a_job_that_has_not_started_has_no_deadline_yet(world: World) -> None:
    for _ in range(2):
        world.submit()
    world.tick()
    job_id = world.store.create_job(SPEC.model_copy(update={"deadline_hours": 1.0}))[0].id
    world.tick(7200)
    assert (world.job(job_id).state, world.job(job_id).deadline_at) == (JobState.QUEUED, None)


def test_a_job_whose_description_nobody_can_read_any_more_fails_alone(world: World) -> None:
    runs, broken, other = world.training(), world.submit(), world.submit()
    with world.store.write() as connection:
        unreadable = update(tables.jobs).where(tables.jobs.c.id.in_([broken, runs]))
        connection.execute(unreadable.values(spec='{"name": "office", "from": "the future"}', deadline_at=0.0))
    world.tick(1000.0)
    world.tick()
    for job in (broken, runs):
        found = world.job(job)
        assert (found.state, found.failure) == (JobState.FAILED, FailureClass.BUG)
        assert "another version of Cohort" in (found.reason or "")
    assert world.job(other).state == JobState.STARTING
    assert [job.id for job in world.store.list_jobs()[0]] == [other, broken, runs]
    with pytest.raises(UnreadableSpec, match="Submit the job anew"):
        _ = world.job(broken).spec
