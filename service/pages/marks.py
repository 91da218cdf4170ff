"""Marks that change when what a page shows has changed: one cheap read, so that pages can be told at once."""

from sqlalchemy import func, select

from service.store import Store
from service.tables import groups, jobs, metrics, plans

Marks = dict[str, str]
"""What a page may show -> a mark of its present state."""


def job_marks(store: Store, job_id: str) -> Marks:
    """Of one job: `state`, `events`, `groups`, `metrics`, `plans`.  A job that is gone has no marks."""

    def of_job(value, table):
        return select(value).where(table.c.job_id == job_id).scalar_subquery()

    query = select(
        *(jobs.c[name] for name in ("state", "desired", "priority", "archived_at", "deleted_at", "attempt")),
        jobs.c.last_event,
        jobs.c.updated_at,
        of_job(func.max(groups.c.updated_at), groups),
        of_job(func.max(metrics.c.id), metrics),
        of_job(func.count(), plans),
        of_job(func.max(plans.c.approved_at), plans),
    ).where(jobs.c.id == job_id, jobs.c.purged_at.is_(None))
    with store.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        return {}
    *state, last_event, updated_at, group, metric, num_plans, approved_at = map(_text, row)
    return {
        "state": "-".join(state),
        "events": last_event,
        "groups": f"{updated_at}-{group}",
        "metrics": metric,
        "plans": f"{num_plans}-{approved_at}",
    }


def list_marks(store: Store, tenant: str | None) -> Marks:
    """Of a listing of the tenant's jobs, or of everybody's: `jobs`."""
    query = select(func.count(), func.max(jobs.c.updated_at), func.sum(jobs.c.last_event))
    query = query.where(jobs.c.purged_at.is_(None))
    with store.read() as connection:
        row = connection.execute(query if tenant is None else query.where(jobs.c.tenant == tenant)).one()
    return {"jobs": "-".join(map(_text, row))}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def encode(marks: Marks) -> str:
    """Marks as the `id` of a server-sent event."""
    return "~".join(f"{name}={mark}" for name, mark in marks.items())


def decode(text: str) -> Marks:
    """The same read back; what is no mark is left out."""
    return dict(part.split("=", 1) for part in text.split("~") if "=" in part)
