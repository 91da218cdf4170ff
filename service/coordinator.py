"""Brings what is towards what is wished, a little with every look: jobs in the database, drivers on Ray.

Level-triggered: a tick looks at everything afresh, so it does not matter what a coordinator before it was doing when it
died.  It starts no training and reads no results; that is the driver's.  Who starts next is `service.queue`'s.
"""

import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from structlog.contextvars import bind_contextvars, bound_contextvars

from service.clock import Clock, SystemClock
from service.cluster_check import ClusterCheck
from service.endings import Ending, deadline_reason, what_follows
from service.errors import DatabaseUnavailable, IllegalMove, JobNotFound, RayUnavailable, StaleLease, UnreadableSpec
from service.queue import RAY_AWAY, Holding, Need, Waiting, line_up, seat
from service.quotas import need_of
from service.ray_jobs import ENDED, DriverJobs
from service.records import Job
from service.settings import Settings
from service.states import Desired, JobState
from service.store import Store
from service.telemetry import Telemetry
from workers import faults
from workers.failures import FailureClass

log = logging.getLogger(__name__)

SUBMIT_SECONDS = 60.0
"""How long a Ray that answers may refuse or leave pending an attempt's driver before the attempt counts as dead."""
SWEEP_SECONDS = 20.0
"""Between two looks for drivers that nobody waits for."""
LEAVE_SECONDS = 20.0
"""How long a driver may take to end after its job has moved on."""
_WHY_LINES = 12


class Coordinator:
    """One loop, in one thread."""

    def __init__(
        self,
        store: Store,
        ray_jobs: DriverJobs,
        settings: Settings,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        check: ClusterCheck | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """
        Args:
            clock: the time as the store's `now` gives it.  Left out: this machine's.
            chance: a number in [0, 1), for the waits before retries.
            check: keeps jobs from a cluster that is not fit for them; left out, they are let on any.
            telemetry: where it counts what it does; left out, nobody looks.
        """
        self._store = store
        self._ray = ray_jobs
        self._settings = settings
        self._clock = clock or SystemClock()
        self._chance = chance
        self._check = check
        self._telemetry = telemetry or Telemetry(store)
        self._holder = f"{socket.gethostname()}:{settings.home}"
        self._fence: int | None = None
        self._renew_at = 0.0
        self._sweep_at = 0.0
        self._signs: dict[str, tuple[object, float]] = {}
        self._ended: dict[str, str] = {}
        self._under_way: set[str] = set()
        self._ray_since = self._clock.monotonic()
        self.ray_answers = True
        """Whether Ray answered at the last look."""

    @property
    def fence(self) -> int | None:
        """The token of the lease while this control plane acts; None while another one does."""
        return self._fence

    def run(self, stop: threading.Event) -> None:
        """Ticks until `stop`.  A tick that fails is logged, and the next one starts from what is true then."""
        while not stop.wait(self._settings.poll_seconds):
            try:
                began = time.monotonic()
                self.tick()
                acts = self._fence is not None
                self._telemetry.looked(time.monotonic() - began, acts=acts, ray_answers=self.ray_answers)
            except StaleLease as error:
                log.warning("%s", error)
                self._fence = None
            except DatabaseUnavailable as error:
                log.warning("the database does not answer, everything waits: %s", error)
            except Exception:
                log.exception("the coordinator's look failed; it looks again in %.1f s", self._settings.poll_seconds)

    def rest(self) -> None:
        """Gives the lease back, so that another control plane can act at once."""
        if self._fence is not None:
            self._store.release_lease(self._fence)
            self._fence = None

    def tick(self) -> None:
        """One look: wishes that need no driver, drivers that ended or will not listen, jobs that can start.

        None of it while another control plane holds the lease.  StaleLease if one took it over in the middle.
        """
        if not self._acts():
            self._under_way.clear()
            return
        self._count_ends()
        for job in self._store.jobs_to_settle(self._clock.time()):
            self._each(self._settle, job)
        answers = self._ray.alive()
        if self.ray_answers and not answers:
            log.warning("Ray does not answer; jobs wait")
        if answers and not self.ray_answers:
            self._ray_since = self._clock.monotonic()
        self.ray_answers = answers
        if not answers:  # nothing is decided about drivers that cannot be asked after, and no attempt is used up
            self._hold(self._store.startable_jobs(self._clock.time()), RAY_AWAY)
            return
        for job in self._store.active_jobs():
            self._each(self._follow, job)
        if self._clock.time() >= self._sweep_at:
            self._sweep_at = self._clock.time() + SWEEP_SECONDS
            self._sweep()
        self._seat()

    def _acts(self) -> bool:
        """Whether this control plane holds the lease; it is renewed long before it runs out."""
        if self._fence is not None and self._clock.monotonic() < self._renew_at:
            return True
        asked_at = self._clock.monotonic()
        held = self._store.hold_lease(self._holder, self._settings.lease_seconds, self._fence)
        if held is not None and self._fence is None:
            self._store.set_draining(False)  # whoever drained is gone
        if (held is None) != (self._fence is None):
            log.info("this control plane acts now" if held else "another control plane acts now")
        self._fence = held
        self._renew_at = asked_at + self._settings.lease_seconds / 6
        return held is not None

    def _each(self, step: Callable[..., None], job: Job, *more: Any) -> None:
        """One job's trouble holds up no other job: with Ray, the next tick tries again; with itself, it has failed."""
        with bound_contextvars(job=job.id, attempt=job.attempt):
            try:
                step(job, *more)
            except RayUnavailable as error:
                log.warning("%s", error)
            except UnreadableSpec as error:
                why = {"reason": str(error), "failure": FailureClass.BUG}
                self._move(job, JobState.FAILED, attempt=job.attempt if job.is_active else None, **why)

    def _count_ends(self) -> None:
        """Counts attempts that their drivers have ended since the last look."""
        running = {job.id for job in self._store.active_jobs()}
        for job_id in self._under_way - running:
            with suppress(JobNotFound):  # purged meanwhile
                job = self._store.get_job(job_id)
                self._telemetry.attempt_ended(job.state, job.failure)
        self._under_way = running

    def _settle(self, job: Job) -> None:
        """No attempt owns it, and none has to."""
        if job.desired == Desired.CANCEL:
            self._move(job, JobState.CANCELLED, attempt=None, expected=job.state)
        elif self._overdue(job):
            self._fail_overdue(job, attempt=None, expected=job.state)
        else:
            self._move(job, JobState.PAUSED, attempt=None, expected=job.state)

    def _seat(self) -> None:
        """Starts the jobs whose turn it is, and tells the others what they wait for."""
        waiting = self._store.startable_jobs(self._clock.time())
        objection = self._objection(wanted=bool(waiting))
        if objection is not None:
            self._hold(waiting, objection)
            return
        if not waiting:
            return
        running = self._store.active_jobs()
        seating = seat(
            line_up(waiting, Counter(job.tenant for job in running)),
            [Holding(job.tenant, job.devices) for job in running],
            room=self._settings.max_running_jobs,
            quotas=self._store.quotas(),
            stored=self._store.stored_bytes(),
            need=self._need,
        )
        for job_id, devices in seating.starts.items():
            self._each(self._start, self._store.get_job(job_id), devices)
        told = {job.id: job.waits_for for job in waiting}
        news = {job: reason for job, reason in seating.waits.items() if told[job] != reason}
        self._store.set_waits(news, fence=self._fence)

    def _need(self, job_id: str) -> Need:
        try:
            return need_of(self._store.get_job(job_id).spec)
        except UnreadableSpec:  # it fails as it starts
            return Need(1, 1)

    def _objection(self, *, wanted: bool) -> str | None:
        """What is wrong with the cluster that jobs would run on, as far as it is known."""
        try:
            return None if self._check is None else self._check.objection(wanted=wanted)
        except RayUnavailable as error:
            log.warning("%s", error)
            return RAY_AWAY

    def _hold(self, waiting: Sequence[Waiting], reason: str) -> None:
        """None of them starts, and all are told why."""
        self._store.set_waits({job.id: reason for job in waiting if job.waits_for != reason}, fence=self._fence)

    def _start(self, job: Job, devices: int | None) -> None:
        try:
            attempt = self._store.start_attempt(job.id, devices=devices, fence=self._fence)
        except IllegalMove:  # the wish or the state changed since we looked
            return
        bind_contextvars(attempt=attempt)
        self._under_way.add(job.id)
        if job.state != JobState.AWAITING_APPROVAL:  # that waited for its user
            could = max(job.state_since, job.not_before, job.desired_since)
            self._telemetry.queue_seconds.observe(max(0.0, self._clock.time() - could.timestamp()))
        log.info("attempt %d of %s starts", attempt, job.id)
        self._submit(job, attempt)

    def _submit(self, job: Job, attempt: int) -> None:
        faults.point("coordinator.submits")
        self._ray.submit(job.id, attempt, job.name)
        faults.point("coordinator.submitted")

    def _follow(self, job: Job) -> None:
        """An attempt owns this job: is its driver there, and does it listen?"""
        assert job.submission_id is not None, f"{job.id} is {job.state} without a submission id"
        status = self._ray.status(job.submission_id)
        begun, answers = self._clock.time() - job.state_since.timestamp(), self._clock.monotonic() - self._ray_since
        fresh = job.state == JobState.STARTING and min(begun, answers) < SUBMIT_SECONDS  # a Ray that is away costs none
        grace = self._settings.cancel_grace_seconds
        # a cluster may have to grow before it has what a driver takes
        patience = self._settings.stall_seconds if self._settings.driver_resources else SUBMIT_SECONDS
        is_stuck = status == "PENDING" and job.state == JobState.STARTING and min(begun, answers) >= patience
        if status is None and fresh and job.desired == Desired.RUN:
            self._signs.pop(job.submission_id, None)
            self._submit(job, job.attempt)  # we, one before us or Ray's head died between the two steps
        elif status is None or status in ENDED:
            faults.point("coordinator.buries")
            self._bury(job, status)
            faults.point("coordinator.buried")
        elif job.desired == Desired.CANCEL and (job.at_once or self._waited(job) > grace):
            self._stop(job)
            late = f"The driver did not stop within {grace:g} s and was ended."
            self._move(job, JobState.CANCELLED, reason="Cancelled at once." if job.at_once else late)
        elif self._overdue(job, by=grace):
            self._stop(job)
            self._fail_overdue(job)
        elif self._is_silent(job) or is_stuck:
            seconds = patience if is_stuck else self._settings.stall_seconds
            log.warning("driver %s gave no sign of life for %g s and is ended", job.submission_id, seconds)
            self._ended[job.submission_id] = f"it gave no sign of life for {seconds:g} s and was ended"
            self._stop(job)  # buried once Ray says that it is gone: the next attempt shall not meet it

    def _stop(self, job: Job) -> None:
        assert job.submission_id is not None
        faults.point("coordinator.stops")
        self._ray.stop(job.submission_id)
        faults.point("coordinator.stopped")

    def _is_silent(self, job: Job) -> bool:
        """Whether nothing was heard of its driver for too long, as this process has watched it while Ray answered.

        Signs are only told apart, never compared with a clock: those of two machines may disagree by hours.
        """
        assert job.submission_id is not None
        sign, now = (job.seen_at, job.state_since), self._clock.monotonic()
        known, since = self._signs.get(job.submission_id, (None, now))
        if known != sign:
            since = now
        silent = now - max(since, self._ray_since) > self._settings.stall_seconds
        self._signs[job.submission_id] = (sign, now if silent else since)  # one that outlives its end gets another
        return silent

    def _sweep(self) -> None:
        """Ends drivers that nobody waits for: of attempts that are over, and of jobs that have moved on without them.

        A driver that just moved its job is given time to end by itself; drivers of jobs that this database does not
        know belong to somebody else.
        """
        running = {job.submission_id for job in self._store.active_jobs()}
        self._signs = {submission: sign for submission, sign in self._signs.items() if submission in running}
        self._ended = {submission: why for submission, why in self._ended.items() if submission in running}
        try:
            drivers = self._ray.unfinished()
        except RayUnavailable as error:
            log.warning("%s", error)
            return
        for submission, job_id in drivers.items():
            try:
                job = self._store.get_job(job_id)
            except JobNotFound:
                continue
            owns = job.is_active and job.submission_id == submission
            if owns or self._clock.time() - job.state_since.timestamp() <= LEAVE_SECONDS:
                continue
            try:
                if self._ray.stop(submission):
                    log.warning("driver %s was left over and is ended: %s is %s", submission, job_id, job.state)
            except RayUnavailable as error:
                log.warning("driver %s: %s", submission, error)

    def _bury(self, job: Job, status: str | None) -> None:
        """The driver is gone and left its job in the middle of things.

        The store is asked with the attempt's number: a driver that moved its job at the last moment wins.
        """
        if job.desired == Desired.CANCEL:
            self._move(job, JobState.CANCELLED)
            return
        if job.desired == Desired.PAUSE:
            self._move(job, JobState.PAUSED)
            return
        if self._overdue(job):
            self._fail_overdue(job)
            return
        assert job.submission_id is not None
        ending = Ending(
            attempt=job.attempt,
            state=job.state,
            status=status,
            said="" if status is None else self._ray.log_tail(job.submission_id, _WHY_LINES),
            ended_for=self._ended.pop(job.submission_id, None),
        )
        follows = what_follows(
            ending,
            failures=job.failures,
            # a head that was lost is told with a class, too, and counts for nothing
            of_class=lambda failure: min(self._store.failures_of(job.id, failure), job.failures),
            settings=self._settings,
            chance=self._chance,
        )
        state = JobState.FAILED if follows.seconds is None else JobState.QUEUED
        fields = {"failures": follows.failures, "not_before": self._clock.time() + (follows.seconds or 0.0)}
        self._move(job, state, reason=follows.reason, failure=follows.failure, **fields)

    def _overdue(self, job: Job, *, by: float = 0.0) -> bool:
        return job.deadline_at is not None and self._clock.time() - job.deadline_at.timestamp() >= by

    def _fail_overdue(self, job: Job, **fields: Any) -> None:
        self._move(job, JobState.FAILED, reason=deadline_reason(job.spec), failure=FailureClass.TIMEOUT, **fields)

    def _move(self, job: Job, to: JobState, **fields: Any) -> None:
        """Moves the job as it was seen, under the lease."""
        moved = self._store.move(job.id, to, **{"attempt": job.attempt, "fence": self._fence, **fields})
        if moved:
            log.info("%s is %s. %s", job.id, to, fields.get("reason") or "")
        if moved and job.id in self._under_way:
            self._under_way.remove(job.id)
            self._telemetry.attempt_ended(to, fields.get("failure"))

    def _waited(self, job: Job) -> float:
        return self._clock.time() - job.desired_since.timestamp()
