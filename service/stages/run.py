"""One attempt of a job as its stages see it: what to do, where to write, and whether to go on.

Every write goes through here with the attempt's number.  A write that changes nothing means that a newer attempt has
taken over, and then this one ends at once.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from service.artifacts import JobFiles, plan_path
from service.endings import deadline_reason
from service.settings import Settings
from service.spec import JobSpec
from service.states import STAGE_OF, Desired, JobState
from service.store import Store
from workers.failures import FailureClass
from workers.launching.launcher import Launcher
from workers.launching.work import GroupUnit
from workers.seals import Damaged
from workers.storage_mark import read_mark
from workers.tensorboard import EventFiles

if TYPE_CHECKING:  # it brings SciPy and scikit-learn, which the first stages of a job do not wait for
    from grouping.plan import Plan

log = logging.getLogger(__name__)

SIGN_SECONDS = 5.0
"""Between two signs of life of a driver."""
MADE_AGAIN = "It is made again where it is needed"
"""What follows where an artifact is damaged."""


class StaleAttempt(Exception):
    """A newer attempt owns the job; this one must not write another word."""


class Interrupted(Exception):
    """A wish ended the attempt before its job was done; `to` is where the job goes."""

    def __init__(self, to: JobState, reason: str, failure: FailureClass | None = None) -> None:
        super().__init__(to, reason, failure)
        self.to = to
        self.reason = reason
        self.failure = failure


class StageFailed(Exception):
    """The job cannot go on.  `reason` is for the user, `detail` (a traceback) for the log."""

    def __init__(self, reason: str, detail: str = "", failure: FailureClass = FailureClass.USER) -> None:
        super().__init__(reason, detail, failure)
        self.reason = reason
        self.detail = detail
        self.failure = failure


@dataclass
class JobRun:
    """What every stage is handed."""

    job: str
    attempt: int
    spec: JobSpec
    store: Store
    files: JobFiles
    launcher: Launcher
    settings: Settings
    terminated: Callable[[], bool] = field(default=lambda: False)
    """True once this process was asked to end (SIGTERM)."""
    _signed_at: float = field(default=-math.inf, init=False)
    _stage: str = field(default="", init=False)
    event_files: EventFiles = field(init=False)
    """For TensorBoard."""

    def __post_init__(self) -> None:
        self.event_files = EventFiles(self.files.path("tensorboard"), self.attempt)

    def enter(self, state: JobState) -> None:
        """Moves the job into a stage."""
        self.check()
        self._landed(self.store.move(self.job, state, attempt=self.attempt))
        self._stage = STAGE_OF[state]
        self.launcher.show_stage(self.job, self._stage)

    def event(self, kind: str, message: str, *, level: str = "info", data: dict[str, Any] | None = None) -> None:
        """Tells the user something."""
        about = {"group": data["group"]} if data and "group" in data else {}
        log.info("%s: %s", kind, message, extra=about)
        seq = self.store.add_event(self.job, kind, message, level=level, data=data, attempt=self.attempt)
        self._landed(seq is not None)

    def has(self, path: str, then: str = MADE_AGAIN) -> bool:
        """Whether an artifact is there and whole.  A damaged one is told, with what follows `then`, and removed."""
        try:
            return self.files.is_whole(path)
        except Damaged as error:
            self.event("artifact_damaged", f"{error} {then}.", level="warning", data={"path": path})
            self.files.path(path).unlink(missing_ok=True)
            return False

    def put_groups(self, units: tuple[GroupUnit, ...]) -> None:
        """Rows for groups that are about to run; rows that exist keep what they know."""
        rows = [
            {
                "id": unit.id,
                "kind": unit.kind,
                "tasks": unit.tasks,
                "texts_per_step": unit.texts_per_step,
            }
            | ({"num_steps": unit.num_steps, "images_per_step": unit.images_per_step} if unit.num_steps else {})
            for unit in units
        ]
        self._landed(self.store.put_groups(self.job, rows, attempt=self.attempt))

    def add_plan(self, plan: "Plan", *, approved: bool) -> int:
        """Writes a plan and records it under the next number; an approval given before stays."""

        def save(number: int) -> None:
            self.files.write_text(plan_path(number), plan.model_dump_json(indent=1))

        number = self.store.add_plan(self.job, plan.outline(), save, approved=approved, attempt=self.attempt)
        if number is None:
            raise self._stale()
        return number

    def update_group(self, group: str, **fields: Any) -> None:
        """Changes fields of a group's row."""
        self._landed(self.store.update_group(self.job, group, attempt=self.attempt, **fields))

    def add_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Appends metric points."""
        if rows:
            self._landed(self.store.add_metrics(self.job, rows, attempt=self.attempt))

    def put_results(self, rows: list[dict[str, Any]]) -> None:
        """Writes test results; the same task and baseline again replaces them."""
        self._landed(self.store.put_results(self.job, rows, attempt=self.attempt))

    def take_over_rows(self, source: str) -> None:
        """Copies another job's plans and metric points."""
        self._landed(self.store.take_over_rows(self.job, source, attempt=self.attempt))

    def check(self) -> None:
        """Raises `Interrupted` or `StaleAttempt` where the attempt should not go on.  Asked before every artifact.

        Every few seconds it also leaves a sign of life: a driver that asks no more counts as hung some day.
        """
        wish = self.store.wish(self.job)
        if time.monotonic() - self._signed_at > min(SIGN_SECONDS, self.settings.stall_seconds / 4):
            self.store.seen(self.job, self.attempt)
            if self._stage:
                self.launcher.show_stage(self.job, self._stage)
            self._signed_at = time.monotonic()
        if wish.attempt != self.attempt or not wish.active:
            owner = f"attempt {wish.attempt} owns the job" if wish.attempt != self.attempt else "the job was taken away"
            raise StaleAttempt(f"attempt {self.attempt} of {self.job} is over: {owner}")
        if wish.desired is Desired.CANCEL:
            raise Interrupted(JobState.CANCELLED, "cancelled by its user")
        if wish.desired is Desired.PAUSE:
            raise Interrupted(JobState.PAUSED, "paused by its user; checkpoints are kept")
        if wish.overdue:
            raise Interrupted(JobState.FAILED, deadline_reason(self.spec), FailureClass.TIMEOUT)
        if wish.draining or self.terminated():
            raise Interrupted(JobState.QUEUED, "the service shuts down; the job goes on when it is back")

    def common(self) -> dict[str, Any]:
        """The fields that every work of this job shares."""
        return {
            "job": self.job,
            "attempt": self.attempt,
            "backbone": self.spec.backbone,
            "tasks": tuple(self.spec.tasks),
            "roots": self.settings.roots_of(self.store.tenant_of(self.job)),
            "cache_dir": self.settings.home / "cache",
            "num_threads": self.launcher.num_threads,
            "faults": self.settings.faults,
            "faults_ledger": self.settings.faults_ledger,
            "mark": read_mark(self.settings.storage_place),
        }

    def _landed(self, written: bool | None) -> None:
        if written is False:
            raise self._stale()

    def _stale(self) -> StaleAttempt:
        return StaleAttempt(f"attempt {self.attempt} of {self.job} wrote nothing: a newer attempt owns the job")
