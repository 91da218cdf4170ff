"""What each tenant may use, what it uses, and the refusal of what would be more.

Running jobs and devices are held back by the queue; files and priorities by refusing the job.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from service import tables
from service.database import Database
from service.errors import QuotaExceeded
from service.queue import Need, Quota
from service.spec import JobSpec
from service.states import ACTIVE

_LIMITS = ("max_running_jobs", "max_devices", "max_storage_bytes", "max_priority")


@dataclass(frozen=True)
class Usage:
    """What a tenant uses now."""

    running_jobs: int
    devices: int
    """Granted to its running jobs; those that run without a limit are not in it."""
    storage_bytes: int
    """Of all its jobs' files, as last measured."""


class QuotaRows(Database):
    """The store's part about quotas (abstract: `Store` is what is used)."""

    def quotas(self) -> dict[str, Quota]:
        """Tenant -> quota, of all that have one."""
        with self.read() as connection:
            rows = connection.execute(select(tables.quotas)).mappings()
            return {row["tenant"]: Quota(*(row[name] for name in _LIMITS)) for row in rows}

    def quota(self, tenant: str) -> Quota:
        """A tenant's quota; without any limit where none was set."""
        with self.read() as connection:
            return self._quota(connection, tenant)

    def set_quota(self, tenant: str, **limits: int | None) -> None:
        """Sets a tenant's limits (`Quota`), all at once: one that is left out is none.  What runs goes on."""
        values = asdict(Quota(**limits)) | {"updated_at": self.now()}
        try:
            self._put_quota(tenant, values)
        except IntegrityError:  # another one was the first to set it, just now
            self._put_quota(tenant, values)

    def delete_quota(self, tenant: str) -> None:
        """Lifts every limit of a tenant.  Repeatable."""
        with self.write() as connection:
            connection.execute(delete(tables.quotas).where(tables.quotas.c.tenant == tenant))

    def usage(self, tenant: str) -> Usage:
        """What a tenant uses now."""
        jobs = tables.jobs
        running = select(func.count(), func.coalesce(func.sum(jobs.c.devices), 0))
        with self.read() as connection:
            own = connection.execute(running.where(jobs.c.tenant == tenant, jobs.c.state.in_(ACTIVE))).one()
            return Usage(int(own[0]), int(own[1]), _stored(connection, tenant))

    def stored_bytes(self) -> dict[str, int]:
        """Tenant -> bytes of its jobs' files, of the tenants that have a limit for them."""
        with self.read() as connection:
            limited = select(tables.quotas.c.tenant).where(tables.quotas.c.max_storage_bytes.is_not(None))
            return {tenant: _stored(connection, tenant) for (tenant,) in connection.execute(limited).all()}

    def _put_quota(self, tenant: str, values: dict[str, Any]) -> None:
        table = tables.quotas
        with self.write() as connection:
            if connection.execute(update(table).where(table.c.tenant == tenant).values(values)).rowcount == 0:
                connection.execute(insert(table).values(values | {"tenant": tenant}))

    def _quota(self, connection: Connection, tenant: str) -> Quota:
        query = select(tables.quotas).where(tables.quotas.c.tenant == tenant)
        row = connection.execute(query).mappings().first()
        return Quota() if row is None else Quota(*(row[name] for name in _LIMITS))

    def _highest_priority(self, connection: Connection, tenant: str, wanted: int) -> int:
        """The wanted priority, or the tenant's highest where that is lower."""
        most = self._quota(connection, tenant).max_priority
        return wanted if most is None else min(wanted, most)

    def _check_quota(self, connection: Connection, tenant: str, priority: int, *, stores: bool = True) -> None:
        """QuotaExceeded where the tenant may have no such job now."""
        quota = self._quota(connection, tenant)
        check_priority(quota, tenant, priority)
        if stores:
            self._check_storage(connection, tenant)

    def check_storage(self, tenant: str) -> None:
        """QuotaExceeded where the tenant's files take all that they may."""
        with self.read() as connection:
            self._check_storage(connection, tenant)

    def _check_storage(self, connection: Connection, tenant: str) -> None:
        most = self._quota(connection, tenant).max_storage_bytes
        if most is not None and (stored := _stored(connection, tenant)) >= most:
            raise QuotaExceeded(
                f"The files of tenant {tenant!r} take {stored} bytes, and its quota is {most}. Delete jobs that are "
                "done with (their files count until `purge_at`), or ask an admin for a higher quota."
            )


def check_priority(quota: Quota, tenant: str, priority: int) -> None:
    """QuotaExceeded for a priority above the tenant's highest."""
    if quota.max_priority is not None and priority > quota.max_priority:
        raise QuotaExceeded(
            f"priority={priority} was given, and jobs of tenant {tenant!r} may have at most {quota.max_priority}. "
            "Lower it, or ask an admin for a higher quota."
        )


def need_of(spec: JobSpec) -> Need:
    """The devices that a job takes: at most one set of them for each of its tasks."""
    least = spec.resources.devices_per_group
    return Need(least, least * len(spec.tasks))


def _stored(connection: Connection, tenant: str) -> int:
    total = select(func.coalesce(func.sum(tables.jobs.c.storage_bytes), 0)).where(tables.jobs.c.tenant == tenant)
    return int(connection.execute(total).scalar_one())
