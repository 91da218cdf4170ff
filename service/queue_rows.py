"""Which jobs the coordinator has to look at: those that run, those that could start, those that need no driver."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from sqlalchemy import and_, or_, select, update

from service import tables
from service.leases import LeaseRows
from service.queue import Waiting
from service.quotas import QuotaRows
from service.records import Job
from service.states import ACTIVE, WAITING, Desired, JobState
from workers.failures import FailureClass

_AT_A_TIME = 500
"""Ids in one statement: databases limit how many values it may carry."""
_MEASURE_SECONDS = 60.0


class QueueRows(QuotaRows, LeaseRows):
    """The store's part about the queue (abstract: `Store` is what is used)."""

    def active_jobs(self) -> list[Job]:
        """Jobs that an attempt owns, oldest first."""
        return self._select(tables.jobs.c.state.in_(ACTIVE))

    def jobs_to_settle(self, now: float, limit: int = 100) -> list[Job]:
        """Jobs without a driver that need none to go on: to be cancelled or paused, or past their deadline."""
        jobs = tables.jobs
        waits = jobs.c.state.in_(WAITING)
        cancelled = jobs.c.desired == Desired.CANCEL
        paused = and_(jobs.c.state != JobState.PAUSED, jobs.c.desired == Desired.PAUSE)
        return self._select(and_(waits, or_(cancelled, paused, jobs.c.deadline_at <= now)), limit)

    def startable_jobs(self, now: float) -> list[Waiting]:
        """Jobs whose next attempt may begin: queued ones whose retry's pause is over, resumed ones, and those with an
        approved plan."""
        jobs, plans = tables.jobs, tables.plans
        approved = select(plans.c.job_id).where(plans.c.job_id == jobs.c.id, plans.c.approved).exists()
        ready = or_(
            and_(jobs.c.state == JobState.QUEUED, jobs.c.not_before <= now),
            jobs.c.state == JobState.PAUSED,
            and_(jobs.c.state == JobState.AWAITING_APPROVAL, approved),
        )
        query = select(jobs.c.id, jobs.c.tenant, jobs.c.priority, jobs.c.waits_for)
        with self.read() as connection:
            return [Waiting(*row) for row in connection.execute(query.where(jobs.c.desired == Desired.RUN, ready))]

    def longest_wait(self) -> float:
        """Seconds for which the queued job that waits for longest could have started; 0 if none waits."""
        jobs, now = tables.jobs, self.now()
        ready = and_(jobs.c.state == JobState.QUEUED, jobs.c.not_before <= now, jobs.c.desired == Desired.RUN)
        with self.read() as connection:
            rows = connection.execute(select(jobs.c.state_since, jobs.c.not_before).where(ready))
            return max((now - max(row) for row in rows), default=0.0)

    def set_waits(self, waits: Mapping[str, str], *, fence: int | None = None) -> None:
        """Job -> what it waits for; jobs that wait no longer stay as they are.  StaleLease, as for `move`."""
        jobs = tables.jobs
        of_reason = sorted(waits, key=lambda job: waits[job])
        for reason, ids in groupby(of_reason, key=lambda job: waits[job]):
            same = list(ids)
            for first in range(0, len(same), _AT_A_TIME):
                some = and_(jobs.c.id.in_(same[first : first + _AT_A_TIME]), jobs.c.state.in_(WAITING))
                with self.write() as connection:
                    self._check_fence(connection, fence)
                    connection.execute(update(jobs).where(some).values(waits_for=reason))

    def seen(self, job_id: str, attempt: int) -> None:
        """A driver looked at its wish: it lives.  Nothing happens if its attempt is over."""
        jobs = tables.jobs
        owns = and_(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state.in_(ACTIVE))
        with self.write() as connection:
            connection.execute(update(jobs).where(owns).values(seen_at=self.now()))

    def failures_of(self, job_id: str, failure: FailureClass) -> int:
        """Attempts of the job that ended for a failure of this class."""
        events = tables.events
        moves = select(events.c.data).where(events.c.job_id == job_id, events.c.kind == "state")
        with self.read() as connection:
            return sum(data.get("failure") == failure for data in connection.execute(moves).scalars())

    def typical_seconds(self, limit: int = 50) -> list[float]:
        """How long the latest jobs that succeeded ran, from their first start."""
        jobs = tables.jobs
        done = and_(
            jobs.c.state.in_({JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED}),
            jobs.c.purpose == "train",
            jobs.c.started_at.is_not(None),
        )
        query = select(jobs.c.finished_at - jobs.c.started_at).where(done).order_by(jobs.c.id.desc()).limit(limit)
        with self.read() as connection:
            return list(connection.execute(query).scalars())

    def jobs_to_measure(self, now: float, limit: int = 20) -> list[str]:
        """Jobs whose files may have grown since they were measured, the longest ago first."""
        jobs = tables.jobs
        grown = or_(
            jobs.c.measured_at.is_(None),
            and_(jobs.c.state.in_(ACTIVE), jobs.c.measured_at < now - _MEASURE_SECONDS),
            and_(jobs.c.state.not_in(ACTIVE), jobs.c.measured_at <= jobs.c.state_since),
        )
        started = and_(jobs.c.attempt > 0, jobs.c.purged_at.is_(None))
        query = select(jobs.c.id).where(started, grown).order_by(jobs.c.measured_at.nulls_first(), jobs.c.id)
        with self.read() as connection:
            return list(connection.execute(query.limit(limit)).scalars())

    def set_stored(self, job_id: str, num_bytes: int, measured_at: float) -> None:
        """What a job's files take, as measured at that time."""
        values = {"storage_bytes": num_bytes, "measured_at": measured_at}
        with self.write() as connection:
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(values))

    def _select(self, where: Any, limit: int | None = None) -> list[Job]:
        with self.read() as connection:
            query = select(tables.jobs).where(where).order_by(tables.jobs.c.id).limit(limit)
            return [Job.of(row) for row in connection.execute(query).mappings()]
