"""What travels over HTTP about keys, and about who did what."""

from datetime import datetime

from pydantic import Field

from service.roles import DEFAULT_TENANT, Role
from service.wire import Message
from workers.spec import Spec


class NewKey(Spec):
    """Asks for an API key."""

    name: str = Field(min_length=1, max_length=255)
    """Who or what will use it."""
    tenant: str = Field(default=DEFAULT_TENANT, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Whose jobs it is for."""
    role: Role = Role.SUBMITTER
    """What it may do."""
    expires_in: float | None = Field(default=None, gt=0, lt=10e9)
    """Seconds until it stops working; null: never."""


class Key(Message):
    """An API key, without the key."""

    prefix: str
    """Names it."""
    name: str
    """Who or what uses it."""
    tenant: str
    """Whose jobs it is for."""
    role: Role
    """What it may do."""
    created_at: datetime
    """When it was made."""
    expires_at: datetime | None
    """When it stops working by itself."""
    last_used_at: datetime | None
    """When it was last seen, to the minute."""
    revoked_at: datetime | None
    """From when on it does not work."""


class CreatedKey(Key):
    """A new API key."""

    key: str
    """In clear text, this once."""


class KeyList(Message):
    """All keys."""

    keys: list[Key]
    """The oldest first."""


class ArtifactLink(Message):
    """A URL that stands for a file of a job."""

    url: str
    """Asks for no key: whoever has it can fetch the file."""
    expires_at: datetime
    """When it stops working by itself."""


class Whoami(Message):
    """Whose key the request carried."""

    tenant: str
    """Whose jobs it is for."""
    role: Role
    """What it may do."""
    name: str
    """Of the key."""
    key: str | None
    """Its prefix; null on a service without keys."""


class AuditEntry(Message):
    """Something that somebody did, or was not let do."""

    id: int
    """The cursor."""
    at: datetime
    """When."""
    tenant: str | None
    """Whose key it was; null where no good one was sent."""
    key: str | None
    """Its prefix."""
    role: Role | None
    """Its role then."""
    address: str | None
    """Where the request came from."""
    action: str
    """Method and route."""
    job_id: str | None
    """The job it was about."""
    status: int
    """Of the answer."""


class AuditPage(Message):
    """The audit log, the newest first."""

    entries: list[AuditEntry]
    """At most `limit` of them."""
    next: int | None
    """Pass it as `before` for the following page; null: this was the last."""
