"""What drivers write while a job runs: events, groups, metrics, results, plans.

Every write carries the attempt it comes from and is checked in its own transaction: an attempt owns its job only while
the job is in an active state and no newer attempt has begun.  A write that comes too late changes nothing and says so.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from grouping.outline import PlanOutline
from service import tables
from service.database import Database
from service.errors import Conflict, JobNotFound
from service.records import Event, Group, Job, Metric, PlanRow, ResultRow
from service.states import ACTIVE

_GROUP_FIELDS = ("kind", "tasks", "state", "step", "num_steps", "losses", "reason", "worker", "parameters", "seconds")
_GROUP_FIELDS += ("images_per_step", "texts_per_step", "failure", "failures", "tries", "microbatches", "memory")
_NEW_GROUP: dict[str, Any] = {
    "state": "waiting",
    "step": 0,
    "num_steps": 0,
    "losses": {},
    "reason": None,
    "worker": None,
    "parameters": {},
    "seconds": None,
    "images_per_step": 0,
    "texts_per_step": 0,
    "failure": None,
    "failures": 0,
    "tries": [],
    "microbatches": 1,
    "memory": None,
}


class TrainingRows(Database):
    """The store's part about a running job (abstract: `Store` is what is used)."""

    def add_event(
        self,
        job_id: str,
        kind: str,
        message: str,
        *,
        level: str = "info",
        data: dict[str, Any] | None = None,
        attempt: int | None = None,
    ) -> int | None:
        """Adds an event; its sequence number, or None if the attempt is stale.  `attempt=None`: the service speaks."""
        with self.write("add_event") as connection:
            if attempt is not None and not self._owns(connection, job_id, attempt):
                return None
            return self._say(connection, job_id, kind, message, level=level, data=data)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """Events with a sequence number above `after`, oldest first."""
        table = tables.events
        query = select(table).where(table.c.job_id == job_id, table.c.seq > after).order_by(table.c.seq).limit(limit)
        return [Event.of(row) for row in self._rows(job_id, query)]

    def put_groups(self, job_id: str, groups: Sequence[dict[str, Any]], attempt: int) -> bool:
        """Adds groups (`id`, `kind`, `tasks`, and any other field of `Group`), in the order that listings show.

        A group that is there already (a resumed attempt) keeps every field that is not given.
        """
        with self.write("put_groups") as connection:
            if not self._owns(connection, job_id, attempt):
                return False
            table = tables.groups
            known = {row.id for row in connection.execute(select(table.c.id).where(table.c.job_id == job_id))}
            for offset, group in enumerate(groups):
                values = _group_values({key: value for key, value in group.items() if key != "id"}) | {
                    "updated_at": self.now()
                }
                if group["id"] in known:
                    where = (table.c.job_id == job_id) & (table.c.id == group["id"])
                    connection.execute(update(table).where(where).values(values))
                else:
                    place = {"job_id": job_id, "id": group["id"], "position": len(known) + offset}
                    connection.execute(insert(table).values(_NEW_GROUP | values | place))
            return True

    def update_group(self, job_id: str, group_id: str, *, attempt: int, **fields: Any) -> bool:
        """Sets fields of one group; False if the attempt is stale or there is no such group."""
        table = tables.groups
        with self.write("update_group") as connection:
            if not self._owns(connection, job_id, attempt):
                return False
            where = (table.c.job_id == job_id) & (table.c.id == group_id)
            values = _group_values(fields) | {"updated_at": self.now()}
            return connection.execute(update(table).where(where).values(values)).rowcount == 1

    def groups(self, job_id: str) -> list[Group]:
        table = tables.groups
        query = select(table).where(table.c.job_id == job_id).order_by(table.c.position, table.c.id)
        return [Group.of(row) for row in self._rows(job_id, query)]

    def finished_groups(self, limit: int = 300) -> list[tuple[Job, Group]]:
        """Trained groups of all jobs with what they took, each with its job, the latest last."""
        jobs, groups = tables.jobs, tables.groups
        where = (groups.c.state == "done") & (groups.c.num_steps > 0) & groups.c.seconds.is_not(None)
        latest = select(groups.c.job_id, groups.c.id).where(where).order_by(groups.c.updated_at.desc()).limit(limit)
        with self.read() as connection:
            found = connection.execute(latest).all()
            of_jobs = select(jobs).where(jobs.c.id.in_({row.job_id for row in found}))
            known = {row["id"]: Job.of(row) for row in connection.execute(of_jobs).mappings()}
            of_groups = select(groups).where(groups.c.job_id.in_(known))
            rows = {(row["job_id"], row["id"]): row for row in connection.execute(of_groups).mappings()}
        return [(known[row.job_id], Group.of(rows[row.job_id, row.id])) for row in reversed(found)]

    def add_metrics(self, job_id: str, rows: Iterable[dict[str, Any]], attempt: int) -> bool:
        """Adds numbers (`group`, `task` or None, `step`, `name`, `value`); a step trained again replaces its own."""
        plain = [
            {"job_id": job_id, **{key: row[key] for key in ("group", "step", "name")}, "task": row.get("task") or ""}
            | {"value": _number(row["value"])}
            for row in rows
        ]
        return self._upsert(
            tables.metrics, ("job_id", "group", "task", "step", "name"), ("value",), job_id, plain, attempt
        )

    def metrics(
        self,
        job_id: str,
        *,
        group: str | None = None,
        task: str | None = None,
        name: str | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> list[Metric]:
        """Numbers with an id above `after`, in the order in which they came."""
        table = tables.metrics
        query = select(table).where(table.c.job_id == job_id, table.c.id > after)
        for column, wanted in ((table.c.group, group), (table.c.task, task), (table.c.name, name)):
            if wanted is not None:
                query = query.where(column == wanted)
        return [Metric.of(row) for row in self._rows(job_id, query.order_by(table.c.id).limit(limit))]

    def put_results(self, job_id: str, rows: Iterable[dict[str, Any]], attempt: int) -> bool:
        """Sets results by task and baseline: the fields of `ResultRow`, `baseline` None for the job's own plan."""
        plain = [
            {"job_id": job_id, "baseline": row.get("baseline") or ""}
            | {name: row[name] for name in ("task", "group", "metric", "metrics", "num_test")}
            | {name: _number(row[name]) for name in ("score", "loss")}
            for row in rows
        ]
        changes = ("group", "metric", "score", "metrics", "loss", "num_test")
        return self._upsert(tables.results, ("job_id", "task", "baseline"), changes, job_id, plain, attempt)

    def results(self, job_id: str) -> list[ResultRow]:
        table = tables.results
        query = select(table).where(table.c.job_id == job_id).order_by(table.c.task, table.c.baseline)
        return [ResultRow.of(row) for row in self._rows(job_id, query)]

    def add_plan(
        self,
        job_id: str,
        outline: PlanOutline,
        save: Callable[[int], object],
        *,
        approved: bool = False,
        attempt: int | None = None,
        at_most: int | None = None,
    ) -> int | None:
        """Adds a plan under the next number, which it returns; None, with nothing written, if the attempt is stale.

        Args:
            save: writes the plan's artifact under the number it is handed, before the plan is known to anybody.
            approved: let it be trained, unless another plan of the job may be already.
            attempt: None: the service itself, for somebody who asked.
            at_most: plans that the job may have in all.
        Raises: Conflict where it has as many already.
        """
        table = tables.plans
        with self.write("add_plan") as connection:
            if attempt is not None and not self._owns(connection, job_id, attempt):
                return None
            self._lock_job(connection, job_id)
            rows = connection.execute(select(table.c.number, table.c.approved).where(table.c.job_id == job_id)).all()
            if at_most is not None and len(rows) >= at_most:
                raise Conflict(
                    f"Job {job_id} has {len(rows)} plans; a job keeps at most {at_most}. Compare and use those it has."
                )
            number = 1 + max((row.number for row in rows), default=-1)
            granted = approved and not any(row.approved for row in rows)
            save(number)
            now = self.now()
            values = {"job_id": job_id, "number": number, "outline": outline.model_dump(mode="json")}
            values |= {"attempt": attempt}
            values |= {"approved": granted, "created_at": now, "approved_at": now if granted else None}
            connection.execute(insert(table).values(values))
            if attempt is None:  # the files of a job that has ended are measured once, and these came later
                of_job = tables.jobs.c.id == job_id
                connection.execute(update(tables.jobs).where(of_job).values(measured_at=None))
            return number

    def plans(self, job_id: str) -> list[PlanRow]:
        """The job's plans, the newest last."""
        table = tables.plans
        query = select(table).where(table.c.job_id == job_id).order_by(table.c.number)
        return [PlanRow.of(row) for row in self._rows(job_id, query)]

    def _lock_job(self, connection: Connection, job_id: str) -> None:
        """JobNotFound if there is none; else nobody else writes about the job until the transaction ends."""
        table = tables.jobs
        here = (table.c.id == job_id) & table.c.purged_at.is_(None)
        if connection.execute(select(table.c.id).where(here).with_for_update()).first() is None:
            raise JobNotFound(f"There is no job {job_id!r:.60}.")

    def _owns(self, connection: Connection, job_id: str, attempt: int) -> bool:
        """Whether the attempt may write; locks the job's row, so that the answer holds until the transaction ends."""
        table = tables.jobs
        query = select(table.c.attempt, table.c.state).where(table.c.id == job_id).with_for_update()
        row = connection.execute(query).first()
        if row is None:
            raise JobNotFound(f"There is no job {job_id!r:.60}.")
        return row.attempt == attempt and row.state in ACTIVE

    def _say(
        self,
        connection: Connection,
        job_id: str,
        kind: str,
        message: str,
        *,
        level: str = "info",
        data: dict[str, Any] | None = None,
    ) -> int:
        """Adds an event inside a transaction.  Counting on the job's own row keeps the numbers without gaps."""
        table = tables.jobs
        now = self.now()
        count = update(table).where(table.c.id == job_id).values(last_event=table.c.last_event + 1, updated_at=now)
        row = connection.execute(count.returning(table.c.last_event, table.c.attempt)).first()
        if row is None:
            raise JobNotFound(f"There is no job {job_id!r:.60}.")
        values = {"job_id": job_id, "seq": row.last_event, "kind": kind, "level": level, "message": storable(message)}
        values |= {"data": data or {}, "attempt": row.attempt, "created_at": now}
        connection.execute(insert(tables.events).values(values))
        return row.last_event

    def _upsert(
        self,
        table: Table,
        key: tuple[str, ...],
        changes: tuple[str, ...],
        job_id: str,
        rows: list[dict[str, Any]],
        attempt: int,
    ) -> bool:
        dialect = postgresql if self.dialect == "postgresql" else sqlite
        statement = dialect.insert(table)
        statement = statement.on_conflict_do_update(
            index_elements=list(key), set_={name: statement.excluded[name] for name in changes}
        )
        with self.write(f"put_{table.name}") as connection:
            if not self._owns(connection, job_id, attempt):
                return False
            if rows:
                connection.execute(statement, rows)
            return True

    def _rows(self, job_id: str, query: Any) -> Sequence[Any]:
        """The query's rows; JobNotFound rather than nothing where the job does not exist."""
        must_be_id(job_id)
        with self.read() as connection:
            rows = connection.execute(query).mappings().all()
            if (
                not rows
                and connection.execute(select(tables.jobs.c.id).where(tables.jobs.c.id == job_id)).first() is None
            ):
                raise JobNotFound(f"There is no job {job_id!r:.60}.")
            return rows


def must_be_id(job_id: str) -> None:
    """JobNotFound for what cannot be the id of a job; some of it no database would take."""
    if not (job_id.isascii() and job_id.isprintable() and len(job_id) <= 32):
        raise JobNotFound(f"There is no job {job_id!r:.60}.")


def storable(message: str) -> str:
    """Text that every database takes: no NUL, no half characters."""
    return message.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _group_values(fields: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(fields) - set(_GROUP_FIELDS))
    assert not unknown, f"groups have no field {unknown}; they have {list(_GROUP_FIELDS)}"
    values = dict(fields)
    if "tasks" in values:
        values["tasks"] = list(values["tasks"])
    if values.get("reason") is not None:
        values["reason"] = storable(values["reason"])
    return values


def _number(value: float | None) -> float | None:
    """A float as databases keep it: NaN and infinities become NULL."""
    return None if value is None or value != value or value in (float("inf"), float("-inf")) else float(value)
