"""A control plane against chance: users, drivers, crashes and clocks in any order, and what must be true all the same.

Hypothesis plays them: coordinators die between two looks, drivers die or wake up after they were written off, Ray goes
away, comes back, or comes back empty.  The laws hold after every step.
"""

import math
import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from grouping.plan import trivial_plan
from service.clock import FakeClock
from service.coordinator import LEAVE_SECONDS, SWEEP_SECONDS, Coordinator
from service.errors import Conflict, IdempotencyConflict, IllegalMove, JobFinished, QuotaExceeded, StaleLease
from service.ray_jobs import FakeRayJobs
from service.records import JobLine, submission_id
from service.settings import Settings
from service.spec import parse_spec
from service.states import ALLOWED_MOVES, WAITING, Desired, JobState
from service.store import Store
from workers.failures import FailureClass

SPEC = parse_spec("{name: model, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")
OUTLINE = trivial_plan(["a"], "alone").outline()
STEPS = int(os.environ.get("COHORT_TEST_MODEL_STEPS", "20000"))
PER_EXAMPLE = 100
GRACE = 20.0

FORWARD = {
    JobState.STARTING: JobState.VALIDATING,
    JobState.VALIDATING: JobState.PROFILING,
    JobState.PROFILING: JobState.GROUPING,
    JobState.GROUPING: JobState.TRAINING,
    JobState.TRAINING: JobState.PUBLISHING,
    JobState.PUBLISHING: JobState.SUCCEEDED,
}


class ControlPlaneModel(RuleBasedStateMachine):
    jobs: Bundle[str] = Bundle("jobs")
    num_steps = 0
    """Rules that were played and whose laws held, in all examples."""

    @initialize()
    def start(self) -> None:
        self.clock = FakeClock()
        self.home = TemporaryDirectory()
        self.store = Store("sqlite://", now=self.clock.time)
        self.ray = FakeRayJobs()
        self.ended: dict[str, JobLine] = {}
        self.sleeper: Coordinator | None = None
        self.store.set_quota("busy", max_running_jobs=1, max_priority=1)
        self.store.set_quota("small", max_devices=2)
        self.new_coordinator("first")
        ControlPlaneModel.num_steps -= 1  # the laws are looked at before the first rule, too

    def new_coordinator(self, home: str) -> None:
        self.acts = home
        config = Settings(
            home=Path(self.home.name) / home,
            max_running_jobs=2,
            max_attempts=3,
            backoff_seconds=5.0,
            cancel_grace_seconds=GRACE,
            lease_seconds=30.0,
            stall_seconds=300.0,
        )
        self.coordinator = Coordinator(self.store, self.ray, config, clock=self.clock, chance=lambda: 0.5)

    # users

    @rule(
        target=jobs,
        key=st.sampled_from([None, "a", "b"]),
        tenant=st.sampled_from(["busy", "small", "free"]),
        hours=st.sampled_from([None, None, 0.1]),
        devices=st.sampled_from([1, 1, 2, 3]),
    )
    def submit(self, key: str | None, tenant: str, hours: float | None, devices: int):
        resources = SPEC.resources.model_copy(update={"devices_per_group": devices})
        spec = SPEC.model_copy(update={"deadline_hours": hours, "resources": resources})
        try:
            job, created = self.store.create_job(spec, tenant=tenant, idempotency_key=key)
        except IdempotencyConflict:
            assert key is not None
            return multiple()
        return job.id if created else multiple()

    @rule(job=jobs, priority=st.integers(-2, 2))
    def priority(self, job: str, priority: int) -> None:
        before = self.store.get_job(job)
        try:
            assert self.store.set_priority(job, priority).priority == priority
        except JobFinished:
            assert before.is_finished
        except QuotaExceeded:
            assert before.tenant == "busy" and priority > 1

    @rule(job=jobs, wish=st.sampled_from([*Desired, "now"]))
    def wish(self, job: str, wish: str) -> None:
        before, now = self.store.get_job(job), wish == "now"
        wish = Desired.CANCEL if now else Desired(wish)
        try:
            after = self.store.set_desired(job, wish, at_once=now)
        except JobFinished:
            assert before.is_finished
        except Conflict:
            assert before.desired == Desired.CANCEL
        else:
            assert after.desired == wish and after.state == before.state

    @rule(job=jobs)
    def approve(self, job: str) -> None:
        if self.store.plans(job) and not self.store.get_job(job).is_finished:
            self.store.approve_plan(job, 0)

    # the service

    @rule(seconds=st.sampled_from([0.0, 1.0, 7.0, 31.0, 400.0]))
    def look(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.tick()

    @rule()
    def look_at_once(self) -> None:
        self.tick()

    def tick(self) -> None:
        self.coordinator.tick()
        assert self.coordinator.fence is not None
        for job in self.all():
            if job.state in WAITING and job.deadline_at is not None:
                assert job.deadline_at.timestamp() > self.clock.time(), "a waiting job outlived its deadline"
        if not self.ray.reachable:
            return
        active = self.store.active_jobs()
        for job in active:
            overdue = job.deadline_at is not None and self.clock.time() - job.deadline_at.timestamp() >= GRACE
            assert not overdue, "a job outlived its deadline, and the grace after it"
            assert not job.at_once, "a cancel that was to be at once was not"
        room = len(active) < 2
        for waiting in self.store.startable_jobs(self.clock.time()):
            assert waiting.waits_for is not None, "a job that could start was neither started nor told why not"
            assert waiting.waits_for.startswith("Quota") or not room, "room was left empty"

    @rule()
    def one_that_slept_through_its_lease_wakes_up(self) -> None:
        """And goes on as if it held it: whatever it does, it writes nothing."""
        if self.sleeper is None:
            return
        self.sleeper._renew_at = math.inf
        before = self.all()
        with suppress(StaleLease):
            self.sleeper.tick()
        assert self.all() == before

    @rule()
    def the_head_is_lost_and_costs_no_attempt(self) -> None:
        if not self.ray.reachable:
            return
        self.ray.forget()
        before = [job for job in self.store.active_jobs() if job.state != JobState.STARTING]
        self.tick()
        for job in before:
            assert self.store.get_job(job.id).failures == job.failures

    @rule(mishap=st.sampled_from(["restart", "takeover", "drain", "back", "away", "here", "lost"]))
    def something_happens(self, mishap: str) -> None:
        match mishap:
            case "restart":  # killed in between two looks
                self.new_coordinator(self.acts)
            case "takeover":
                self.clock.advance(31)
                self.sleeper = self.coordinator
                self.new_coordinator("second" if self.acts == "first" else "first")
                self.tick()
            case "drain" | "back":
                self.store.set_draining(mishap == "drain")
            case "away" | "here":
                self.ray.reachable = mishap == "here"
            case "lost":
                self.ray.forget()

    @rule(
        job=jobs,
        status=st.sampled_from(["FAILED", "SUCCEEDED", "STOPPED"]),
        said=st.sampled_from(["", "OutOfMemoryError", "preempted"]),
    )
    def a_driver_dies(self, job: str, status: str, said: str) -> None:
        with self._ray_answering():
            for submission in [s for s, owner in self.ray.unfinished().items() if owner == job]:
                self.ray.finish(submission, status, said)

    @rule(job=jobs, age=st.integers(0, 2))
    def a_driver_looks_at_its_wish(self, job: str, age: int) -> None:
        before = self.store.get_job(job)
        self.store.seen(job, before.attempt - age)
        assert age == 0 or self.store.get_job(job) == before

    # drivers: what service.driver does between two looks at its wish

    @rule(job=jobs, times=st.integers(1, 5))
    def a_driver_goes_on(self, job: str, times: int) -> None:
        for _ in range(times):
            self.a_driver_steps(job, 0, "next")

    @rule(job=jobs, age=st.integers(0, 2), does=st.sampled_from(["next", "fail", "ask", "partly"]))
    def a_driver_steps(self, job: str, age: int, does: str) -> None:
        """The newest attempt's driver, or one that was written off before."""
        attempt = self.store.get_job(job).attempt - age
        if attempt < 1:
            return
        before = self.store.get_job(job)
        wish = self.store.wish(job)
        written = self._drive(job, attempt, before, wish.desired, wish.draining, does)
        if attempt != before.attempt or not before.is_active:
            assert not written, f"attempt {attempt} wrote to a job of attempt {before.attempt} in {before.state}"
            assert self.store.get_job(job) == before

    def _drive(self, job: str, attempt: int, seen: JobLine, desired: Desired, draining: bool, does: str) -> bool:
        stops = {Desired.CANCEL: JobState.CANCELLED, Desired.PAUSE: JobState.PAUSED}

        def move(to: JobState) -> bool:
            try:
                return self.store.move(job, to, attempt=attempt)
            except IllegalMove:
                assert to not in ALLOWED_MOVES[seen.state]
                return False

        if desired in stops:
            return move(stops[desired])
        if draining:
            return move(JobState.QUEUED)
        if does == "fail":
            return move(JobState.FAILED)
        if does == "partly" and seen.state == JobState.PUBLISHING:
            return move(JobState.PARTIALLY_SUCCEEDED)
        if does == "ask" and seen.state == JobState.GROUPING:
            if not self.store.plans(job):
                self.store.add_plan(job, OUTLINE, lambda number: None, attempt=attempt)
            return move(JobState.AWAITING_APPROVAL)
        return seen.state in FORWARD and move(FORWARD[seen.state])

    # laws

    @invariant()
    def the_laws_hold(self) -> None:
        jobs = self.all()
        self.finished_jobs_never_change(jobs)
        self.events_tell_every_move_without_gap_and_no_other(jobs)
        self.at_most_as_many_jobs_run_as_there_is_room_for(jobs)
        self.no_tenant_has_more_than_its_quota(jobs)
        self.no_job_dies_more_often_than_its_budget(jobs)
        self.nobody_is_cancelled_who_did_not_ask_for_it(jobs)
        ControlPlaneModel.num_steps += 1

    def finished_jobs_never_change(self, jobs: list[JobLine]) -> None:
        for job in jobs:
            if job.is_finished:
                assert self.ended.setdefault(job.id, job) == job
            assert job.id not in self.ended or job.is_finished

    def events_tell_every_move_without_gap_and_no_other(self, jobs: list[JobLine]) -> None:
        for job in jobs:
            events = self.store.events(job.id, limit=5000)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            states = [JobState(event.data["to"]) for event in events if event.kind == "state"]
            assert states[-1] == job.state
            assert all(after in ALLOWED_MOVES[before] for before, after in pairwise(states))
            assert states.count(JobState.STARTING) == job.attempt

    def at_most_as_many_jobs_run_as_there_is_room_for(self, jobs: list[JobLine]) -> None:
        assert sum(job.is_active for job in jobs) <= 2

    def no_tenant_has_more_than_its_quota(self, jobs: list[JobLine]) -> None:
        active = [job for job in jobs if job.is_active]
        assert sum(job.tenant == "busy" for job in active) <= 1
        small = [job.devices for job in active if job.tenant == "small"]
        assert None not in small and sum(devices or 0 for devices in small) <= 2

    def no_job_dies_more_often_than_its_budget(self, jobs: list[JobLine]) -> None:
        for job in jobs:
            memory = self.store.failures_of(job.id, FailureClass.OUT_OF_MEMORY) if job.failures > 1 else 0
            assert job.failures <= 3 and memory <= 2
            assert (job.failures < 3 and memory < 2) or job.state == JobState.FAILED

    def nobody_is_cancelled_who_did_not_ask_for_it(self, jobs: list[JobLine]) -> None:
        for job in jobs:
            assert job.state != JobState.CANCELLED or job.desired == Desired.CANCEL

    def teardown(self) -> None:
        """Once nothing goes wrong any more, every job ends, and no driver is left over."""
        if not hasattr(self, "store"):
            return
        self.ray.reachable = True
        self.store.set_draining(False)
        for job in self.all():
            if not job.is_finished and job.desired == Desired.PAUSE:
                self.store.set_desired(job.id, Desired.RUN)
            if job.state == JobState.AWAITING_APPROVAL:
                self.store.approve_plan(job.id, 0)
        self.store.delete_quota("small")  # a job that asks for more than its tenant may have waits for ever
        for _ in range(200 + 20 * len(self.all())):
            if all(job.is_finished for job in self.all()):
                break
            self.clock.advance(31)
            self.coordinator.tick()
            for submission, job_id in self.ray.unfinished().items():
                job = self.store.get_job(job_id)
                if submission == submission_id(job_id, job.attempt) and job.is_active:
                    self._drive(job_id, job.attempt, job, job.desired, False, "next")
                    if not self.store.get_job(job_id).is_active:
                        self.ray.finish(submission, "SUCCEEDED")
        assert all(job.is_finished for job in self.all()), [(job.id, job.state) for job in self.all()]
        for _ in range(3):
            self.clock.advance(SWEEP_SECONDS + LEAVE_SECONDS)
            self.coordinator.tick()
        assert self.ray.unfinished() == {}
        self.store.close()
        self.home.cleanup()

    def all(self) -> list[JobLine]:
        return self.store.list_jobs(limit=500)[0]

    def _ray_answering(self):
        """Looks at the fake Ray whether or not it answers others."""
        return _Reachable(self.ray)


class _Reachable:
    def __init__(self, ray: FakeRayJobs) -> None:
        self._ray, self._was = ray, ray.reachable

    def __enter__(self) -> None:
        self._ray.reachable = True

    def __exit__(self, *_: object) -> None:
        self._ray.reachable = self._was


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_laws_hold_after_every_step_and_as_many_are_taken_as_are_asked_for() -> None:
    ControlPlaneModel.num_steps = 0
    run_state_machine_as_test(
        ControlPlaneModel,
        settings=settings(
            max_examples=max(10, STEPS * 5 // 4 // PER_EXAMPLE),  # some end early, about one in eight
            stateful_step_count=PER_EXAMPLE,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
    assert ControlPlaneModel.num_steps >= STEPS
