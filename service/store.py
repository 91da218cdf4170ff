"""What is true about jobs: the only writer of their states.

A job's driver and the coordinator both move jobs; the table of allowed moves, the attempt number and the transaction
keep them from undoing each other.  The store knows no Ray and no HTTP, and decides nothing about when a job starts.
"""

import hashlib
import secrets
import threading
import time
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from service import lifecycle, tables
from service.errors import (
    BadCursor,
    CohortError,
    Conflict,
    IdempotencyConflict,
    IllegalMove,
    JobNotFound,
)
from service.keys import KeyRows
from service.leases import LeaseRows
from service.lifecycle_rows import LifecycleRows, read_job
from service.queue_rows import QueueRows
from service.records import (
    Event,
    Group,
    Job,
    JobLine,
    KeyInfo,
    Metric,
    PlanRow,
    Purpose,
    ResultRow,
    Wish,
    submission_id,
)
from service.roles import DEFAULT_TENANT
from service.spec import JobSpec
from service.states import ALLOWED_MOVES, STAGE_OF, TERMINAL, WAITING, Desired, JobState, Verb
from service.training_rows import must_be_id, storable
from service.wish_rows import WishRows
from workers.failures import FailureClass

__all__ = ["Event", "Group", "Job", "KeyInfo", "Metric", "PlanRow", "ResultRow", "Store", "Wish"]

# put together once, since every request about a job asks it
_TENANT_OF = select(tables.jobs.c.tenant).where(tables.jobs.c.id == bindparam("id"), tables.jobs.c.purged_at.is_(None))


class Store(WishRows, LifecycleRows, QueueRows, KeyRows, LeaseRows):
    """Jobs and all that belongs to them, in SQLite or PostgreSQL.  `Store("sqlite://")` keeps them in memory."""

    # jobs

    def create_job(
        self,
        spec: JobSpec,
        *,
        tenant: str = DEFAULT_TENANT,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        parent: str | None = None,
        parent_plan: int | None = None,
        retry_of: str | None = None,
        origin: str = "",
        purpose: Purpose = "train",
    ) -> tuple[Job, bool]:
        """Accepts a job: (job, True), or (the earlier job, False) if the same key brought the same body before.

        Args:
            body_sha256: hash of what the user sent; left out, of the job as it was understood.
            parent: the finished job that this one goes on from, with its plan of the number `parent_plan`.
            retry_of: the finished job whose files this one takes over.  While a retry of it is under way, the answer is
                (that one, False).
            origin: words for its first event, on where it comes from.
            purpose: `estimate` for a dry run.
        Raises: IdempotencyConflict if the key was used for another body; JobNotFound for an unknown parent; Conflict
            for a job that cannot be retried, and for one that is deleted.
        """
        text = spec.model_dump_json()
        body = body_sha256 or hashlib.sha256(text.encode()).hexdigest()
        if idempotency_key is not None and not 1 <= len(idempotency_key) <= 255:
            raise CohortError(f"Idempotency-Key has {len(idempotency_key)} characters; expected 1 to 255. Send a UUID.")
        try:
            with self.write("create_job") as connection:
                earlier = self._earlier(connection, tenant, idempotency_key, body)
                if earlier is not None:
                    return earlier, False
                job = self._under_way(connection, parent, retry_of)
                created = job is None
                if job is None:
                    priority = spec.priority
                    if parent is not None or retry_of is not None:  # nobody could ask for another one
                        priority = self._highest_priority(connection, tenant, priority)
                    self._check_quota(connection, tenant, priority, stores=purpose == "train")
                    values: dict[str, Any] = {"name": spec.name, "tenant": tenant, "spec": text, "purpose": purpose}
                    values |= {"num_tasks": len(spec.tasks), "method": spec.method.kind}
                    values |= {"priority": priority}
                    values |= {"parent": parent, "parent_plan": parent_plan, "retry_of": retry_of}
                    job = self._insert_job(connection, values, f"Accepted with {len(spec.tasks)} task(s){origin}.")
                if idempotency_key is not None:
                    key = {"tenant": tenant, "key": idempotency_key, "body_sha256": body, "job_id": job.id}
                    connection.execute(insert(tables.idempotency_keys).values(key | {"created_at": self.now()}))
                return job, created
        except (
            IntegrityError
        ):  # another process took the key first; where writers queue up (SQLite) this does not happen
            with self.read() as connection:
                earlier = self._earlier(connection, tenant, idempotency_key, body)
            if earlier is None:
                raise
            return earlier, False

    def get_job(self, job_id: str) -> Job:
        with self.read() as connection:
            return read_job(connection, job_id)

    def tenant_of(self, job_id: str) -> str:
        """Whose job it is.  JobNotFound."""
        must_be_id(job_id)
        with self.read() as connection:
            found = connection.execute(_TENANT_OF, {"id": job_id}).scalar()
        if found is None:
            raise JobNotFound(f"There is no job {job_id!r:.60}.")
        return found

    def list_jobs(
        self,
        *,
        tenant: str | None = None,
        state: JobState | str | None = None,
        purpose: Purpose = "train",
        archived: bool = False,
        deleted: bool = False,
        after: str | None = None,
        limit: int = 50,
    ) -> tuple[list[JobLine], str | None]:
        """Jobs, newest first, and the cursor of the next page (None: this was the last).  `tenant` None: of all.

        Those that are neither archived nor deleted; or the archived ones; or the deleted ones.
        """
        jobs = tables.jobs
        lines = (column for column in jobs.c if column is not jobs.c.spec)
        query = select(*lines).where(jobs.c.purpose == purpose, jobs.c.purged_at.is_(None))
        query = query.where(jobs.c.deleted_at.is_not(None) if deleted else jobs.c.deleted_at.is_(None))
        if not deleted:
            query = query.where(jobs.c.archived_at.is_not(None) if archived else jobs.c.archived_at.is_(None))
        query = query.order_by(jobs.c.id.desc()).limit(limit + 1)
        if after is not None:
            if not after.startswith("job-") or len(after) != 16 or not set(after[4:]) <= set(_ALPHABET):
                raise BadCursor(
                    f"Cursor {after!r:.60} was not handed out by this listing. Start over without a cursor."
                )
            query = query.where(jobs.c.id < after)
        if tenant is not None:
            query = query.where(jobs.c.tenant == tenant)
        if state is not None:
            query = query.where(jobs.c.state == JobState(state))
        with self.read() as connection:
            found = [JobLine.of(row) for row in connection.execute(query).mappings()]
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    def count_by_state(self) -> dict[JobState, int]:
        """State -> number of jobs, every state named."""
        jobs = tables.jobs
        with self.read() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}

    # moves

    def start_attempt(self, job_id: str, *, devices: int | None = None, fence: int | None = None) -> int:
        """QUEUED, PAUSED or AWAITING_APPROVAL -> STARTING; the new attempt's number, to which the job now belongs.

        The attempt may hold so many device workers at most; None: as many as the settings allow.
        StaleLease, as for `move`.
        """
        with self.write("start_attempt") as connection:
            self._check_fence(connection, fence)
            job = read_job(connection, job_id, lock=True)
            if job.state not in WAITING or job.desired != Desired.RUN:
                raise IllegalMove(f"Job {job_id} is {job.state} and wished to {job.desired}: no attempt can start.")
            attempt = job.attempt + 1
            values = {"attempt": attempt, "submission_id": submission_id(job_id, attempt)}
            values |= {"devices": devices, "seen_at": None}
            if job.started_at is None and job.spec.deadline_hours is not None:
                values["deadline_at"] = self.now() + job.spec.deadline_hours * 3600
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(values))
            self._moved(connection, job, JobState.STARTING, f"Attempt {attempt} starts.", None, {"failure": None})
            return attempt

    def move(
        self,
        job_id: str,
        to: JobState,
        *,
        attempt: int | None,
        reason: str | None = None,
        failure: FailureClass | None = None,
        expected: JobState | None = None,
        progress: dict[str, Any] | None = None,
        failures: int | None = None,
        not_before: float | None = None,
        fence: int | None = None,
    ) -> bool:
        """Moves a job and says so in an event, in one transaction.

        Args:
            attempt: the attempt that moves; if it no longer owns the job, nothing is written and the answer is False.
                None: the service itself, which moves only jobs that no attempt owns.
            expected: the state the caller saw; False if the job has left it.
            reason: kept with the job, shown to its user.
            failure: the class of what ended the attempt; a move without one clears what was kept.
            fence: the token of the lease under which the caller moves.
        Raises: IllegalMove where the table has no such move; moving to the present state is no move, and True.
            StaleLease if the lease has another token by now.
        """
        with self.write("move") as connection:
            self._check_fence(connection, fence)
            job = read_job(connection, job_id, lock=True)
            if attempt is not None and (job.attempt != attempt or not job.is_active):
                return False
            if expected is not None and job.state != expected:
                return False
            if to == job.state:
                return True
            if to not in ALLOWED_MOVES[job.state]:
                raise IllegalMove(
                    f"Job {job_id} is {job.state} and cannot become {to}. "
                    f"From there it can become {', '.join(sorted(ALLOWED_MOVES[job.state])) or 'nothing else'}."
                )
            more = {"progress": progress, "failures": failures, "not_before": not_before}
            given = {name: value for name, value in more.items() if value is not None}
            self._moved(connection, job, to, reason or f"{job.state} -> {to}.", reason, given | {"failure": failure})
            return True

    def set_progress(self, job_id: str, progress: dict[str, Any], attempt: int) -> bool:
        """Sets what the job's page shows of its progress; False if the attempt is stale."""
        with self.write() as connection:
            if not self._owns(connection, job_id, attempt):
                return False
            values = {"progress": progress, "updated_at": self.now()}
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(values))
            return True

    # below

    def _moved(
        self, connection: Connection, job: Job, to: JobState, message: str, reason: str | None, more: dict[str, Any]
    ) -> None:
        now = self.now()
        values = {"state": to, "state_since": now, "reason": None if reason is None else storable(reason), **more}
        values["waits_for"] = None
        if job.state in STAGE_OF:
            stage = STAGE_OF[job.state]
            spent = job.stage_times.get(stage, 0.0) + max(0.0, now - job.state_since.timestamp())
            values["stage_times"] = {**job.stage_times, stage: round(spent, 3)}
        if to == JobState.STARTING and job.started_at is None:
            values["started_at"] = now
        if to in TERMINAL:
            values["finished_at"] = now
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job.id).values(values))
        level = "error" if to == JobState.FAILED else "info"
        data = {"from": job.state, "to": to} | ({"failure": more["failure"]} if more.get("failure") else {})
        self._say(connection, job.id, "state", message, level=level, data=data)

    def _under_way(self, connection: Connection, parent: str | None, retry_of: str | None) -> Job | None:
        """A retry that has not ended yet.  Conflict where no job can go on from the parent, or from what is retried."""
        if parent is not None and (job := read_job(connection, parent, lock=True)).deleted_at is not None:
            raise Conflict(f"Job {job.id} is deleted; no job can go on from it. Restore it first.")
        if retry_of is None:
            return None
        lifecycle.check(Verb.RETRY, read_job(connection, retry_of, lock=True))
        jobs = tables.jobs
        query = select(jobs).where(jobs.c.retry_of == retry_of, jobs.c.state.not_in(TERMINAL))
        row = connection.execute(query.order_by(jobs.c.id).limit(1)).mappings().first()
        return None if row is None else Job.of(row)

    def _insert_job(self, connection: Connection, values: dict[str, Any], message: str) -> Job:
        """A new job that waits for its turn, and the first of its events."""
        job_id, now = _new_id(), self.now()
        values |= {"id": job_id, "state": JobState.QUEUED, "state_since": now}
        values |= {"desired": Desired.RUN, "desired_since": now}
        values |= {"stage_times": {}, "progress": {}, "created_at": now, "updated_at": now}
        connection.execute(insert(tables.jobs).values(values))
        self._say(connection, job_id, "state", message, data={"to": JobState.QUEUED})
        return read_job(connection, job_id)

    def _earlier(self, connection: Connection, tenant: str, key: str | None, body: str) -> Job | None:
        if key is None:
            return None
        table = tables.idempotency_keys
        row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.key == key)).mappings().first()
        if row is None:
            return None
        if row["body_sha256"] != body:
            raise IdempotencyConflict(
                f"Idempotency-Key {key!r:.60} was used for job {row['job_id']} with another body. "
                "Use a new key for a new job."
            )
        return read_job(connection, row["job_id"])


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: its order is the order of its characters
_EPOCH = 1_735_689_600.0  # 2025-01-01; 40 bits of milliseconds from there last until 2059
_id_lock = threading.Lock()
_last_id = 0


def _new_id() -> str:
    """`job-` and 12 characters: milliseconds, then chance; ids that one process makes are in order."""
    global _last_id
    with _id_lock:
        number = (int((time.time() - _EPOCH) * 1000) << 20) | secrets.randbits(20)
        number = _last_id = max(number, _last_id + 1)
    return "job-" + "".join(_ALPHABET[number >> shift & 31] for shift in range(55, -5, -5))
