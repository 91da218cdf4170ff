"""Brings what is towards what is wished, a little with every look: jobs in the database, drivers on Ray.

Level-triggered: a tick looks at everything afresh and remembers nothing, so it does not matter what a coordinator
before it was doing when it died.  It starts no training and reads no results; that is the driver's.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from service.errors import IllegalMove, JobNotFound, RayUnavailable, StaleLease
from service.ray_jobs import ENDED, DriverJobs
from service.records import Job
from service.settings import Settings
from service.states import Desired, JobState
from service.store import Store
from workers import faults

log = logging.getLogger(__name__)

MAX_RETRY_SECONDS = 360.0
SUBMIT_SECONDS = 60.0
"""How long Ray may refuse an attempt's driver before the attempt counts as dead."""
SWEEP_SECONDS = 20.0
"""Between two looks for drivers that nobody waits for."""
LEAVE_SECONDS = 20.0
"""How long a driver may take to end after its job has moved on."""
_WHY_LINES = 12


class Coordinator:
    """One loop, in one thread."""

    def __init__(
        self, store: Store, ray_jobs: DriverJobs, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since 1970, as the store's `now` does."""
        self._store = store
        self._ray = ray_jobs
        self._settings = settings
        self._clock = clock
        self._holder = f"{socket.gethostname()}:{settings.home}"
        self._fence: int | None = None
        self._renew_at = 0.0
        self._sweep_at = 0.0
        self.ray_answers = True
        """Whether Ray answered at the last look."""

    def run(self, stop: threading.Event) -> None:
        """Ticks until `stop`.  A tick that fails is logged, and the next one starts from what is true then."""
        while not stop.wait(self._settings.poll_seconds):
            try:
                self.tick()
            except StaleLease as error:
                log.warning("%s", error)
                self._renew_at = 0.0
            except Exception:
                log.exception("the coordinator's look failed; it looks again in %.1f s", self._settings.poll_seconds)
        self.rest()

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
            return
        for job in self._store.jobs_to_settle():
            to = JobState.CANCELLED if job.desired == Desired.CANCEL else JobState.PAUSED
            self._move(job, to, attempt=None, expected=job.state)
        answers = self._ray.alive()
        if self.ray_answers and not answers:
            log.warning("Ray does not answer; jobs wait")
        self.ray_answers = answers
        if not answers:  # nothing is decided about drivers that cannot be asked after, and no attempt is used up
            return
        for job in self._store.active_jobs():
            self._each(self._follow, job)
        if self._clock() >= self._sweep_at:
            self._sweep_at = self._clock() + SWEEP_SECONDS
            self._sweep()
        capacity = self._settings.max_running_jobs - len(self._store.active_jobs())
        for job in self._store.startable_jobs(self._clock(), capacity) if capacity > 0 else ():
            self._each(self._start, job)

    def _acts(self) -> bool:
        """Whether this control plane holds the lease; it is renewed long before it runs out."""
        if self._fence is not None and self._clock() < self._renew_at:
            return True
        held = self._store.hold_lease(self._holder, self._settings.lease_seconds, self._fence)
        if (held is None) != (self._fence is None):
            log.info("this control plane acts now" if held else "another control plane acts now")
        self._fence = held
        self._renew_at = self._clock() + self._settings.lease_seconds / 3
        return held is not None

    def _each(self, step: Callable[[Job], None], job: Job) -> None:
        """One job's trouble with Ray holds up no other job; the next tick tries again."""
        try:
            step(job)
        except RayUnavailable as error:
            log.warning("job %s: %s", job.id, error)

    def _start(self, job: Job) -> None:
        try:
            attempt = self._store.start_attempt(job.id, fence=self._fence)
        except IllegalMove:  # the wish or the state changed since we looked
            return
        faults.point("coordinator.submits")
        self._ray.submit(job.id, attempt, job.name)
        faults.point("coordinator.submitted")

    def _follow(self, job: Job) -> None:
        """An attempt owns this job: is its driver there, and does it listen?"""
        assert job.submission_id is not None, f"{job.id} is {job.state} without a submission id"
        status = self._ray.status(job.submission_id)
        fresh = job.state == JobState.STARTING and self._clock() - job.state_since.timestamp() < SUBMIT_SECONDS
        if status is None and fresh and job.desired == Desired.RUN:
            self._ray.submit(job.id, job.attempt, job.name)  # we, or one before us, died between the two steps
        elif status is None or status in ENDED:
            faults.point("coordinator.buries")
            self._bury(job, status)
            faults.point("coordinator.buried")
        elif job.desired == Desired.CANCEL and self._waited(job) > self._settings.cancel_grace_seconds:
            faults.point("coordinator.stops")
            self._ray.stop(job.submission_id)
            faults.point("coordinator.stopped")
            reason = f"The driver did not stop within {self._settings.cancel_grace_seconds:g} s and was ended."
            self._move(job, JobState.CANCELLED, reason=reason)

    def _sweep(self) -> None:
        """Ends drivers that nobody waits for: of attempts that are over, and of jobs that have moved on without them.

        A driver that just moved its job is given time to end by itself; drivers of jobs that this database does not
        know belong to somebody else.
        """
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
            if not owns and self._clock() - job.state_since.timestamp() > LEAVE_SECONDS and self._ray.stop(submission):
                log.warning("driver %s was left over and is ended: %s is %s", submission, job_id, job.state)

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
        failures = job.failures + 1
        why = self._why(job, status)
        if failures >= self._settings.max_attempts:
            reason = f"{why} That was the last of {self._settings.max_attempts} attempts."
            self._move(job, JobState.FAILED, failures=failures, reason=reason)
            return
        wait = min(self._settings.backoff_seconds * 2 ** (failures - 1), MAX_RETRY_SECONDS)
        reason = f"{why} Another one starts in {wait:g} s."
        self._move(job, JobState.QUEUED, failures=failures, not_before=self._clock() + wait, reason=reason)

    def _move(self, job: Job, to: JobState, **fields: Any) -> None:
        """Moves the job as it was seen, under the lease."""
        self._store.move(job.id, to, **{"attempt": job.attempt, "fence": self._fence, **fields})

    def _why(self, job: Job, status: str | None) -> str:
        if status is None or job.submission_id is None:
            return f"Attempt {job.attempt} was lost during {job.state}: Ray does not know its driver any more."
        tail = self._ray.log_tail(job.submission_id, _WHY_LINES)
        said = f" Its log ended with:\n{tail}\n" if tail else " Its log is empty."
        return f"Attempt {job.attempt} ended during {job.state}: its driver is {status}.{said}"

    def _waited(self, job: Job) -> float:
        return self._clock() - job.desired_since.timestamp()
