"""Where a job can stand, and which moves exist.  A wish (`Desired`) is not a state: it is a field of its own.

Who moves what:
- the coordinator: QUEUED -> STARTING, PAUSED -> STARTING, AWAITING_APPROVAL -> STARTING (each begins a new
  attempt), an active job whose driver is gone -> QUEUED (try again), FAILED, PAUSED or CANCELLED, and a job without a
  driver -> PAUSED or CANCELLED when that is the wish;
- the attempt's driver: everything else.  A driver that is told to drain (`Wish.draining`: the service shuts down)
  writes its checkpoints, moves its job to QUEUED and exits; the next start of the service begins a new attempt, which
  no retry budget counts and which goes on from the artifacts and checkpoints that are there.
"""

from enum import StrEnum


class JobState(StrEnum):
    """The only list of states."""

    QUEUED = "QUEUED"
    """Accepted; waits for capacity, for the end of a retry's pause, or for the service to be started again."""
    STARTING = "STARTING"
    """An attempt has begun: its Ray Job is being submitted, its driver has not spoken yet."""
    VALIDATING = "VALIDATING"
    """The driver reads every task's data: classes, splits, unreadable images."""
    PROFILING = "PROFILING"
    """The shared prompt trains over all tasks, and signatures are taken along the way."""
    GROUPING = "GROUPING"
    """Signatures become similarities, similarities a plan."""
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    """The plan waits for a person; no Ray Job is held."""
    SEARCHING = "SEARCHING"
    """Hyper-parameters are searched on validation splits."""
    TRAINING = "TRAINING"
    """Groups and baselines train."""
    PUBLISHING = "PUBLISHING"
    """The bundle and the report are written."""
    PAUSED = "PAUSED"
    """Stopped by wish, checkpoints kept; no Ray Job is held."""
    SUCCEEDED = "SUCCEEDED"
    """Everything trained; the bundle is complete."""
    PARTIALLY_SUCCEEDED = "PARTIALLY_SUCCEEDED"
    """Some groups failed, each with its reason; the bundle holds the others."""
    FAILED = "FAILED"
    """Nothing usable came out; the reason says why."""
    CANCELLED = "CANCELLED"
    """Stopped by wish, for good."""


class Desired(StrEnum):
    """What the user wants of the job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Verb(StrEnum):
    """What a user may ask of a job; each is the last part of a route, but `delete`, which is a method."""

    CANCEL = "cancel"
    """Stop for good; checkpoints are kept."""
    PAUSE = "pause"
    """Write checkpoints and give the devices back."""
    RESUME = "resume"
    """Go on after a pause."""
    RETRY = "retry"
    """Once more, as a job of its own that trains only what is missing."""
    CLONE = "clone"
    """The same with other settings, as a job of its own that begins anew."""
    ARCHIVE = "archive"
    """Out of the listing, and kept however old it gets."""
    UNARCHIVE = "unarchive"
    """Back into the listing."""
    DELETE = "delete"
    """Gone after the retention; until then it can be restored."""
    RESTORE = "restore"
    """Not deleted after all."""


_S = JobState

TERMINAL: frozenset[JobState] = frozenset({_S.SUCCEEDED, _S.PARTIALLY_SUCCEEDED, _S.FAILED, _S.CANCELLED})
"""Finished: these never change again."""

ACTIVE: frozenset[JobState] = frozenset(
    {_S.STARTING, _S.VALIDATING, _S.PROFILING, _S.GROUPING, _S.SEARCHING, _S.TRAINING, _S.PUBLISHING}
)
"""An attempt owns the job: it has a Ray Job, and its driver's writes count.  In every other state they do not."""

WAITING: frozenset[JobState] = frozenset({_S.QUEUED, _S.AWAITING_APPROVAL, _S.PAUSED})
"""Neither finished nor owned by an attempt; no Ray Job is held."""

_ALWAYS = frozenset({_S.QUEUED, _S.PAUSED, _S.FAILED, _S.CANCELLED})

ALLOWED_MOVES: dict[JobState, frozenset[JobState]] = {
    _S.QUEUED: frozenset({_S.STARTING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
    _S.STARTING: _ALWAYS | {_S.VALIDATING},
    _S.VALIDATING: _ALWAYS | {_S.PROFILING, _S.GROUPING},
    _S.PROFILING: _ALWAYS | {_S.GROUPING},
    _S.GROUPING: _ALWAYS | {_S.AWAITING_APPROVAL, _S.SEARCHING, _S.TRAINING},
    _S.AWAITING_APPROVAL: frozenset({_S.STARTING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
    _S.SEARCHING: _ALWAYS | {_S.TRAINING},
    _S.TRAINING: _ALWAYS | {_S.PUBLISHING},
    _S.PUBLISHING: _ALWAYS | {_S.SUCCEEDED, _S.PARTIALLY_SUCCEEDED},
    _S.PAUSED: frozenset({_S.STARTING, _S.FAILED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.PARTIALLY_SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""Every move there is; the database refuses all others by itself, so that a new one needs a migration.  A resumed
attempt walks VALIDATING, PROFILING, GROUPING again: stages whose artifact is there are passed through at once."""

STAGE_OF: dict[JobState, str] = {
    _S.VALIDATING: "validate",
    _S.PROFILING: "profile",
    _S.GROUPING: "group",
    _S.SEARCHING: "search",
    _S.TRAINING: "train",
    _S.PUBLISHING: "publish",
}
"""The stage a state is spent on."""
