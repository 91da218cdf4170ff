"""What travels over HTTP about the queue: what a job waits for, and what a tenant may use."""

from datetime import datetime

from pydantic import Field

from service.message import Message
from workers.spec import Spec


class QueuePlace(Message):
    """Where a waiting job stands in the queue."""

    waits_for: str
    """Why it does not run now."""
    position: int | None
    """1: it is the next.  Null while its turn cannot come: a pause after a failure, a plan without approval, a
    quota that is used up."""
    starts_at: datetime | None
    """About when it starts, if it takes the others as long as the latest jobs; null where nothing tells."""


class NewPriority(Spec):
    """Changes when a job starts."""

    priority: int = Field(ge=-100, le=100)
    """Jobs of a higher priority start first."""


class NewQuota(Spec):
    """What a tenant may use at most; a limit that is left out is none."""

    max_running_jobs: int | None = Field(default=None, ge=0, lt=2**31)
    """Jobs that run at the same time; the others wait."""
    max_devices: int | None = Field(default=None, ge=0, lt=2**31)
    """Device workers that its running jobs hold together."""
    max_storage_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    """What the files of all its jobs may take before new ones are refused."""
    max_priority: int | None = Field(default=None, ge=-100, le=100)
    """The highest priority of its jobs."""


class Quota(Message):
    """What a tenant may use, and what it uses."""

    tenant: str
    """Whose it is."""
    max_running_jobs: int | None
    """Jobs that run at the same time; null: as many as the service has room for."""
    max_devices: int | None
    """Device workers that its running jobs hold together; null: as many as there are."""
    max_storage_bytes: int | None
    """What the files of all its jobs may take before new ones are refused; null: no limit."""
    max_priority: int | None
    """The highest priority of its jobs; null: 100."""
    running_jobs: int
    """Jobs that run now."""
    devices: int
    """Device workers granted to those of them that have a limit."""
    storage_bytes: int
    """What the files of all its jobs take, as last measured."""
