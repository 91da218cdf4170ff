"""The rows of the store as readers see them: immutable, typed, times as aware UTC datetimes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import ValidationError
from sqlalchemy import RowMapping as Row

from grouping.outline import PlanOutline
from service.errors import UnreadableSpec
from service.roles import Role
from service.spec import JobSpec
from service.states import ACTIVE, TERMINAL, Desired, JobState
from workers.failures import FailureClass

Purpose = Literal["train", "estimate"]
GroupKind = Literal["plan", "all", "alone", "zero_shot", "shared", "trial"]
GroupState = Literal["waiting", "running", "done", "failed", "stopped"]


def submission_id(job_id: str, attempt: int) -> str:
    """The Ray Job of an attempt: the same attempt is never submitted twice under two names."""
    return f"{job_id}-a{attempt}"


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def at_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else at(seconds)


def _failure(value: str | None) -> FailureClass | None:
    return None if value is None else FailureClass(value)


@lru_cache(maxsize=256)
def _spec(text: str) -> JobSpec:  # specs are immutable, and a job's is read on every look at it
    try:
        return JobSpec.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the top"
        raise UnreadableSpec(
            "The job's description was accepted by another version of Cohort, and this one cannot read it (at "
            f"{where:.100}: {first['msg']:.200}). Submit the job anew."
        ) from error


@dataclass(frozen=True)
class JobLine:
    """One request over many tasks, and where it stands; all but the request itself."""

    id: str
    name: str
    tenant: str
    num_tasks: int
    method: str
    """The kind of what is trained."""
    state: JobState
    desired: Desired
    attempt: int
    failures: int
    reason: str | None
    submission_id: str | None
    parent: str | None
    """The finished job that this one goes on from."""
    parent_plan: int | None
    """The plan of the parent that this job begins with."""
    purpose: Purpose
    """What it is for: to train, or to find out what training would take."""
    priority: int
    """Higher ones start first."""
    at_once: bool
    """Its wish is not to wait for checkpoints."""
    failure: FailureClass | None
    """The class of what ended it, or its newest attempt."""
    waits_for: str | None
    """Why the queue passes it by."""
    not_before: datetime
    """A retry waits until then."""
    devices: int | None
    """Device workers that its attempt may hold; None: as many as the settings allow."""
    seen_at: datetime | None
    """When its driver last looked at its wish."""
    storage_bytes: int
    """What its files take, as last measured."""
    deadline_at: datetime | None
    """From then on it is given up; known once it has started."""
    archived_at: datetime | None
    deleted_at: datetime | None
    """When its user deleted it; its files and rows go some time after that."""
    retry_of: str | None
    """The finished job whose files this one takes over: the same job, once more."""
    stage_times: dict[str, float]
    """Stage -> seconds spent on it so far, over all attempts; a stage that runs now counts when it ends."""
    progress: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    state_since: datetime
    desired_since: datetime

    @property
    def is_finished(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @classmethod
    def of(cls, row: Row, **more: Any) -> Self:
        return cls(
            **more,
            id=row["id"],
            name=row["name"],
            tenant=row["tenant"],
            num_tasks=row["num_tasks"],
            method=row["method"],
            state=JobState(row["state"]),
            desired=Desired(row["desired"]),
            attempt=row["attempt"],
            failures=row["failures"],
            reason=row["reason"],
            submission_id=row["submission_id"],
            parent=row["parent"],
            parent_plan=row["parent_plan"],
            purpose=row["purpose"],
            priority=row["priority"],
            at_once=row["at_once"],
            failure=_failure(row["failure"]),
            waits_for=row["waits_for"],
            not_before=at(row["not_before"]),
            devices=row["devices"],
            seen_at=at_or_none(row["seen_at"]),
            storage_bytes=row["storage_bytes"],
            deadline_at=at_or_none(row["deadline_at"]),
            archived_at=at_or_none(row["archived_at"]),
            deleted_at=at_or_none(row["deleted_at"]),
            retry_of=row["retry_of"],
            stage_times=row["stage_times"],
            progress=row["progress"],
            created_at=at(row["created_at"]),
            updated_at=at(row["updated_at"]),
            started_at=at_or_none(row["started_at"]),
            finished_at=at_or_none(row["finished_at"]),
            state_since=at(row["state_since"]),
            desired_since=at(row["desired_since"]),
        )


@dataclass(frozen=True)
class Job(JobLine):
    """One request over many tasks, and where it stands."""

    spec_json: str

    @property
    def spec(self) -> JobSpec:
        """The request, as it was understood.  UnreadableSpec: then all else of the job is still to be had."""
        return _spec(self.spec_json)

    @property
    def is_readable(self) -> bool:
        """Whether the request can be read."""
        try:
            return bool(self.spec)
        except UnreadableSpec:
            return False

    @classmethod
    def of(cls, row: Row, **more: Any) -> Self:
        return super().of(row, spec_json=row["spec"], **more)


@dataclass(frozen=True)
class Wish:
    """What a driver has to know between two steps."""

    desired: Desired
    draining: bool
    """The service shuts down: checkpoint, move the job to QUEUED, exit."""
    attempt: int
    """The attempt that owns the job; another number than one's own: exit without a write."""
    active: bool = True
    """False: the job was taken away from its driver (stopped, cancelled); exit without a write."""
    overdue: bool = False
    """Its deadline is over."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; `seq` counts from 1 without gaps."""

    seq: int
    kind: str
    message: str
    level: str
    data: dict[str, Any]
    attempt: int
    created_at: datetime

    @classmethod
    def of(cls, row: Row) -> Self:
        same = ("seq", "kind", "message", "level", "data", "attempt")
        return cls(**{name: row[name] for name in same}, created_at=at(row["created_at"]))


@dataclass(frozen=True)
class Group:
    """Tasks that train together, and how far they are."""

    id: str
    kind: GroupKind
    tasks: tuple[str, ...]
    state: GroupState
    step: int
    num_steps: int
    losses: dict[str, float]
    reason: str | None
    worker: str | None
    parameters: dict[str, int]
    seconds: float | None
    images_per_step: int
    """Training images in one step; 0 where nothing trains."""
    texts_per_step: int
    """Class sentences of its tasks, or captions of a step; 0 where nothing trains."""
    failure: FailureClass | None
    """The class of what ended it last; None while it runs and once it is done."""
    failures: int
    """Times that it failed, over all attempts of its job."""
    tries: tuple[tuple[FailureClass, str], ...]
    """Class and newest checkpoint of every time that it failed by itself, not in the company of others."""
    microbatches: int
    """Parts that its batches are taken in; more than 1 after it ran out of memory."""
    memory: dict[str, int] | None
    """What the pass took that it trained in, as a `Footprint`; None where nobody measured it."""
    updated_at: datetime

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that its pass held at a time."""
        return None if self.memory is None else self.memory["peak"]

    @classmethod
    def of(cls, row: Row) -> Self:
        same = ("id", "kind", "state", "step", "num_steps", "losses", "reason", "worker", "parameters", "seconds")
        same += ("images_per_step", "texts_per_step", "failures", "microbatches", "memory")
        return cls(
            **{name: row[name] for name in same},
            tasks=tuple(row["tasks"]),
            failure=_failure(row["failure"]),
            tries=tuple((FailureClass(failure), checkpoint) for failure, checkpoint in row["tries"]),
            updated_at=at(row["updated_at"]),
        )


@dataclass(frozen=True)
class Metric:
    """One number of one step; `id` is the cursor."""

    id: int
    group: str
    task: str | None
    """None: a number of the whole group."""
    step: int
    name: str
    value: float | None
    """None: it was not a finite number."""

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(row["id"], row["group"], row["task"] or None, row["step"], row["name"], row["value"])


@dataclass(frozen=True)
class ResultRow:
    """How one task did on its test images, under the plan or under a baseline."""

    task: str
    group: str
    baseline: Literal["zero_shot", "alone", "all"] | None
    """None: under the job's own plan."""
    metric: str
    """What `score` is: `accuracy`, `mean_average_precision` or `recall@1`."""
    score: float | None
    metrics: dict[str, float | None]
    """All that was measured, by name."""
    loss: float | None
    num_test: int

    @classmethod
    def of(cls, row: Row) -> Self:
        same = ("task", "group", "metric", "score", "metrics", "loss", "num_test")
        return cls(**{name: row[name] for name in same}, baseline=row["baseline"] or None)


@dataclass(frozen=True)
class PlanRow:
    """That a plan exists and whether it may be trained; the plan itself is the artifact `plans/<number>.json`."""

    number: int
    outline: PlanOutline
    attempt: int | None
    """The attempt that made it; None: somebody asked for it (a what-if, or groups of their own)."""
    approved: bool
    """At most one plan of a job is: the one that trains."""
    created_at: datetime
    approved_at: datetime | None

    @classmethod
    def of(cls, row: Row) -> Self:
        outline = PlanOutline.model_validate(row["outline"])
        same = {name: row[name] for name in ("number", "attempt", "approved")}
        times = {"created_at": at(row["created_at"]), "approved_at": at_or_none(row["approved_at"])}
        return cls(outline=outline, **same, **times)


def standing_plan(plans: Sequence[PlanRow]) -> PlanRow | None:
    """The plan that trains, else the newest; None where there is none.  `plans` of one job, the newest last."""
    return next((plan for plan in plans if plan.approved), plans[-1] if plans else None)


@dataclass(frozen=True)
class KeyInfo:
    """An API key, without the key."""

    prefix: str
    name: str
    tenant: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    """From when on it does not work."""

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(
            prefix=row["prefix"],
            name=row["name"],
            tenant=row["tenant"],
            role=Role(row["role"]),
            created_at=at(row["created_at"]),
            expires_at=at_or_none(row["expires_at"]),
            last_used_at=at_or_none(row["last_used_at"]),
            revoked_at=at_or_none(row["revoked_at"]),
        )


@dataclass(frozen=True)
class AuditRow:
    """Something that somebody did, or was not let do."""

    id: int
    at: datetime
    tenant: str | None
    key: str | None
    """Prefix of the key; None where no good one was sent."""
    role: Role | None
    address: str | None
    """Where the request came from."""
    action: str
    """Method and route: `POST /v1/jobs/{job_id}/cancel`."""
    job_id: str | None
    status: int
    """Of the answer."""

    @classmethod
    def of(cls, row: Row) -> Self:
        same = {name: row[name] for name in ("id", "tenant", "key", "address", "action", "job_id", "status")}
        return cls(**same, at=at(row["at"]), role=None if row["role"] is None else Role(row["role"]))
