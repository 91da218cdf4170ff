"""Which jobs the coordinator has to look at, and in which order they start."""

from typing import Any

from sqlalchemy import and_, or_, select

from service import tables
from service.database import Database
from service.records import Job
from service.states import ACTIVE, WAITING, Desired, JobState


class QueueRows(Database):
    """The store's part about the queue (abstract: `Store` is what is used)."""

    def active_jobs(self) -> list[Job]:
        """Jobs that an attempt owns, oldest first."""
        return self._select(tables.jobs.c.state.in_(ACTIVE))

    def jobs_to_settle(self, limit: int = 100) -> list[Job]:
        """Jobs without a driver whose wish needs none: to be cancelled or paused."""
        jobs = tables.jobs
        cancelled = and_(jobs.c.state.in_(WAITING), jobs.c.desired == Desired.CANCEL)
        paused = and_(jobs.c.state.in_(WAITING - {JobState.PAUSED}), jobs.c.desired == Desired.PAUSE)
        return self._select(or_(cancelled, paused), limit)

    def startable_jobs(self, now: float, limit: int) -> list[Job]:
        """Jobs whose next attempt may begin, oldest first: queued ones whose retry's pause is over, resumed ones, and
        those with an approved plan."""
        jobs, plans = tables.jobs, tables.plans
        approved = select(plans.c.job_id).where(plans.c.job_id == jobs.c.id, plans.c.approved).exists()
        ready = or_(
            and_(jobs.c.state == JobState.QUEUED, jobs.c.not_before <= now),
            jobs.c.state == JobState.PAUSED,
            and_(jobs.c.state == JobState.AWAITING_APPROVAL, approved),
        )
        return self._select(and_(jobs.c.desired == Desired.RUN, ready), limit)

    def _select(self, where: Any, limit: int | None = None) -> list[Job]:
        with self.read() as connection:
            query = select(tables.jobs).where(where).order_by(tables.jobs.c.id).limit(limit)
            return [Job.of(row) for row in connection.execute(query).mappings()]
