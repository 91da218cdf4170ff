"""What a client asks about keys, about who did what, and for links; the same for `Cohort` and `AsyncCohort`."""

import json
from abc import ABC, abstractmethod
from typing import Any, TypeVar
from urllib.parse import quote

from service.calls import Call
from service.roles import DEFAULT_TENANT, Role
from service.wire_keys import ArtifactLink, AuditPage, CreatedKey, Key, KeyList, Whoami

T = TypeVar("T")


def whoami() -> Call[Whoami]:
    return Call("GET", "/v1/whoami", lambda answer: Whoami.model_validate_json(answer.content))


def keys() -> Call[list[Key]]:
    return Call("GET", "/v1/keys", lambda answer: KeyList.model_validate_json(answer.content).keys)


def create_key(name: str, tenant: str, role: str, expires_in: float | None) -> Call[CreatedKey]:
    """Sent once: each time makes a key."""
    asked = {"name": name, "tenant": tenant, "role": role, "expires_in": expires_in}
    return Call(
        "POST",
        "/v1/keys",
        lambda answer: CreatedKey.model_validate_json(answer.content),
        headers={"Content-Type": "application/json"},
        content=json.dumps(asked).encode(),
        repeatable=False,
    )


def rotate_key(prefix: str, overlap: float) -> Call[CreatedKey]:
    """Sent once: each time makes a key."""
    path = f"/v1/keys/{quote(prefix, safe='')}/rotate"
    read = CreatedKey.model_validate_json
    return Call("POST", path, lambda answer: read(answer.content), params={"overlap": overlap}, repeatable=False)


def revoke_key(prefix: str) -> Call[Key]:
    path = f"/v1/keys/{quote(prefix, safe='')}"
    return Call("DELETE", path, lambda answer: Key.model_validate_json(answer.content))


def audit(tenant: str | None, before: int | None, limit: int) -> Call[AuditPage]:
    given: dict[str, Any] = {"tenant": tenant, "before": before, "limit": limit}
    params = {name: value for name, value in given.items() if value is not None}
    return Call("GET", "/v1/audit", lambda answer: AuditPage.model_validate_json(answer.content), params=params)


def link(job_id: str, path: str, expires_in: int) -> Call[ArtifactLink]:
    place = f"/v1/jobs/{quote(job_id, safe='')}/artifacts/{quote(path)}/url"
    read = ArtifactLink.model_validate_json
    return Call("POST", place, lambda answer: read(answer.content), params={"expires_in": expires_in})


class KeyCalls(ABC):
    """The part of `Cohort` for keys and links."""

    @abstractmethod
    def _send(self, call: Call[T]) -> T: ...

    def whoami(self) -> Whoami:
        """Tenant and role of the key that this client uses."""
        return self._send(whoami())

    def keys(self) -> list[Key]:
        """All keys of all tenants, the oldest first.  For admins."""
        return self._send(keys())

    def create_key(
        self,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        role: str = Role.SUBMITTER,
        expires_in: float | None = None,
    ) -> CreatedKey:
        """A new key, in clear text this once; good for `expires_in` seconds, or until it is revoked.  For admins."""
        return self._send(create_key(name, tenant, role, expires_in))

    def rotate_key(self, prefix: str, *, overlap: float = 0.0) -> CreatedKey:
        """A new key for the same holder; the old one works `overlap` seconds longer.  For admins."""
        return self._send(rotate_key(prefix, overlap))

    def revoke_key(self, prefix: str) -> Key:
        """The key stops working at once.  For admins."""
        return self._send(revoke_key(prefix))

    def audit(self, *, tenant: str | None = None, before: int | None = None, limit: int = 100) -> AuditPage:
        """Who did what, the newest first; `before` the `next` of the page before.  For admins."""
        return self._send(audit(tenant, before, limit))

    def link(self, job_id: str, path: str, *, expires_in: int = 3600) -> ArtifactLink:
        """A URL under which anybody can fetch a file of the job for so many seconds."""
        return self._send(link(job_id, path, expires_in))


class AsyncKeyCalls(ABC):
    """The part of `AsyncCohort` for keys and links."""

    @abstractmethod
    async def _send(self, call: Call[T]) -> T: ...

    async def whoami(self) -> Whoami:
        """Tenant and role of the key that this client uses."""
        return await self._send(whoami())

    async def keys(self) -> list[Key]:
        """All keys of all tenants, the oldest first.  For admins."""
        return await self._send(keys())

    async def create_key(
        self,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        role: str = Role.SUBMITTER,
        expires_in: float | None = None,
    ) -> CreatedKey:
        """A new key, in clear text this once; good for `expires_in` seconds, or until it is revoked.  For admins."""
        return await self._send(create_key(name, tenant, role, expires_in))

    async def rotate_key(self, prefix: str, *, overlap: float = 0.0) -> CreatedKey:
        """A new key for the same holder; the old one works `overlap` seconds longer.  For admins."""
        return await self._send(rotate_key(prefix, overlap))

    async def revoke_key(self, prefix: str) -> Key:
        """The key stops working at once.  For admins."""
        return await self._send(revoke_key(prefix))

    async def audit(self, *, tenant: str | None = None, before: int | None = None, limit: int = 100) -> AuditPage:
        """Who did what, the newest first; `before` the `next` of the page before.  For admins."""
        return await self._send(audit(tenant, before, limit))

    async def link(self, job_id: str, path: str, *, expires_in: int = 3600) -> ArtifactLink:
        """A URL under which anybody can fetch a file of the job for so many seconds."""
        return await self._send(link(job_id, path, expires_in))
