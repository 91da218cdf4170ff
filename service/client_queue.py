"""What a client asks about priorities and quotas; the same for `Cohort` and `AsyncCohort`."""

import json
from abc import ABC, abstractmethod
from typing import Any, TypeVar
from urllib.parse import quote

from service import wire
from service.calls import Call
from service.wire_queue import Quota

T = TypeVar("T")
_JSON = {"Content-Type": "application/json"}


def set_priority(job_id: str, priority: int) -> Call[wire.Job]:
    return Call(
        "PATCH",
        f"/v1/jobs/{quote(job_id, safe='')}",
        lambda answer: wire.Job.model_validate_json(answer.content),
        headers=_JSON,
        content=json.dumps({"priority": priority}).encode(),
    )


def quota(tenant: str | None) -> Call[Quota]:
    return Call("GET", _path(tenant), lambda answer: Quota.model_validate_json(answer.content))


def set_quota(tenant: str, limits: dict[str, Any] | None) -> Call[Quota]:
    """None: without any limit."""
    if limits is None:
        return Call("DELETE", _path(tenant), lambda answer: Quota.model_validate_json(answer.content))
    content = json.dumps(limits).encode()
    read = Quota.model_validate_json
    return Call("PUT", _path(tenant), lambda answer: read(answer.content), headers=_JSON, content=content)


def _path(tenant: str | None) -> str:
    return "/v1/quota" if tenant is None else f"/v1/tenants/{quote(tenant, safe='')}/quota"


class QueueCalls(ABC):
    """The part of `Cohort` for priorities and quotas."""

    @abstractmethod
    def _send(self, call: Call[T]) -> T: ...

    def set_priority(self, job_id: str, priority: int) -> wire.Job:
        """Lets a job start earlier or later; higher ones first."""
        return self._send(set_priority(job_id, priority))

    def quota(self, tenant: str | None = None) -> Quota:
        """What the own tenant may use and uses; another one's for admins."""
        return self._send(quota(tenant))

    def set_quota(self, tenant: str, **limits: int | None) -> Quota:
        """Sets all limits of a tenant at once (`NewQuota`); one that is left out is none.  For admins."""
        return self._send(set_quota(tenant, limits))

    def delete_quota(self, tenant: str) -> Quota:
        """Lifts all limits of a tenant.  For admins."""
        return self._send(set_quota(tenant, None))


class AsyncQueueCalls(ABC):
    """The part of `AsyncCohort` for priorities and quotas."""

    @abstractmethod
    async def _send(self, call: Call[T]) -> T: ...

    async def set_priority(self, job_id: str, priority: int) -> wire.Job:
        """Lets a job start earlier or later; higher ones first."""
        return await self._send(set_priority(job_id, priority))

    async def quota(self, tenant: str | None = None) -> Quota:
        """What the own tenant may use and uses; another one's for admins."""
        return await self._send(quota(tenant))

    async def set_quota(self, tenant: str, **limits: int | None) -> Quota:
        """Sets all limits of a tenant at once (`NewQuota`); one that is left out is none.  For admins."""
        return await self._send(set_quota(tenant, limits))

    async def delete_quota(self, tenant: str) -> Quota:
        """Lifts all limits of a tenant.  For admins."""
        return await self._send(set_quota(tenant, None))
