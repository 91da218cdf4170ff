"""What users do with jobs beside wishing: put them away, delete them, take that back; and how deleted ones go for good.

A job goes in two steps, so that nobody sees half of one: from the first on it is not there any more, for anybody; the
second, once its files are gone, removes its rows.
"""

from typing import Any

from sqlalchemy import Connection, and_, delete, exists, insert, literal, or_, select, update

from service import lifecycle, tables
from service.database import Database
from service.errors import JobNotFound
from service.records import Job
from service.states import TERMINAL, Verb
from service.training_rows import TrainingRows, must_be_id


def read_job(connection: Connection, job_id: str, *, lock: bool = False) -> Job:
    """The job; with `lock` nobody else writes about it until the transaction ends.  JobNotFound."""
    must_be_id(job_id)
    query = select(tables.jobs).where(tables.jobs.c.id == job_id, tables.jobs.c.purged_at.is_(None))
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise JobNotFound(f"There is no job {job_id!r:.60}.")
    return Job.of(row)


class LifecycleRows(TrainingRows, Database):
    """The store's part about a finished job's further life (abstract: `Store` is what is used)."""

    def archive(self, job_id: str) -> Job:
        """Puts a finished job away; repeatable.  Conflict."""
        return self._put(Verb.ARCHIVE, job_id, "archived", "Put into the archive.", archived_at=self.now())

    def unarchive(self, job_id: str) -> Job:
        """Takes a job out of the archive; repeatable.  Conflict for a deleted one."""
        return self._put(Verb.UNARCHIVE, job_id, "unarchived", "Taken out of the archive.", archived_at=None)

    def delete(self, job_id: str, why: str = "Deleted; it can be restored for a while.") -> Job:
        """Deletes a finished job, which can be restored until it is purged; repeatable.  Conflict."""
        return self._put(Verb.DELETE, job_id, "deleted", why, deleted_at=self.now())

    def restore(self, job_id: str) -> Job:
        """Takes a deletion back; repeatable.  JobNotFound once the job is purged."""
        return self._put(Verb.RESTORE, job_id, "restored", "Restored.", deleted_at=None)

    def old_jobs(self, before: float, limit: int) -> list[str]:
        """Jobs that were finished before then, to which nothing has happened since, and that nobody has archived or
        deleted.  One that is restored, or taken out of the archive, has its time again."""
        jobs = tables.jobs
        kept = and_(jobs.c.archived_at.is_(None), jobs.c.deleted_at.is_(None), jobs.c.purpose == "train")
        with self.read() as connection:
            query = select(jobs.c.id).where(kept, jobs.c.finished_at <= before, jobs.c.updated_at <= before)
            query = query.order_by(jobs.c.id).limit(limit)
            return list(connection.scalars(query))

    def begin_purges(self, *, deleted_before: float, estimated_before: float, limit: int) -> list[str]:
        """Jobs that are not there any more from now on, and those that were not before but whose rows still are.

        Jobs that were deleted before `deleted_before`, and estimates that were finished before `estimated_before` and
        that nobody has archived; but none from which a job goes on that has not ended.  Their idempotency keys are
        free again at once.
        """
        jobs, keys = tables.jobs, tables.idempotency_keys
        child = jobs.alias()
        needed = exists().where(
            or_(child.c.parent == jobs.c.id, child.c.retry_of == jobs.c.id), child.c.state.not_in(TERMINAL)
        )
        due = or_(
            jobs.c.deleted_at <= deleted_before,
            and_(jobs.c.purpose == "estimate", jobs.c.finished_at <= estimated_before, jobs.c.archived_at.is_(None)),
        )
        with self.write("begin_purges") as connection:
            first = select(jobs.c.id).where(due, jobs.c.purged_at.is_(None), ~needed).order_by(jobs.c.id).limit(limit)
            here = jobs.c.id.in_(list(connection.scalars(first)))
            connection.execute(update(jobs).where(here, due, ~needed).values(purged_at=self.now()))
            gone = list(connection.scalars(select(jobs.c.id).where(jobs.c.purged_at.is_not(None)).order_by(jobs.c.id)))
            connection.execute(delete(keys).where(keys.c.job_id.in_(gone)))
            return gone

    def end_purge(self, job_id: str) -> None:
        """Removes every row of a job that is not there any more; repeatable."""
        with self.write("end_purge") as connection:
            jobs = tables.jobs
            gone = connection.scalar(select(jobs.c.purged_at).where(jobs.c.id == job_id).with_for_update())
            if gone is None:
                return
            for table in tables.metadata.sorted_tables:
                if "job_id" in table.c and table.c.job_id.foreign_keys:
                    connection.execute(delete(table).where(table.c.job_id == job_id))
            connection.execute(delete(jobs).where(jobs.c.id == job_id))

    def take_over_rows(self, job_id: str, source: str, *, attempt: int) -> bool:
        """Copies another job's plans and metric points, in place of those the job has; False if the attempt is stale.

        Plans keep their numbers, and whether they are approved.
        """
        with self.write("take_over_rows") as connection:
            if not self._owns(connection, job_id, attempt):
                return False
            for table in (tables.plans, tables.metrics):
                connection.execute(delete(table).where(table.c.job_id == job_id))
                names = [column.name for column in table.c if column.name not in ("job_id", "id")]
                rows = select(literal(job_id), *(table.c[name] for name in names)).where(table.c.job_id == source)
                order = table.c.id if "id" in table.c else table.c.number
                connection.execute(insert(table).from_select(["job_id", *names], rows.order_by(order)))
            return True

    def _put(self, verb: Verb, job_id: str, kind: str, message: str, **values: Any) -> Job:
        with self.write(verb) as connection:
            job = read_job(connection, job_id, lock=True)
            if not lifecycle.check(verb, job):
                return job
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(values))
            self._say(connection, job_id, kind, message)
            return read_job(connection, job_id)
