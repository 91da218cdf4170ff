"""What units have been through, and what is tried next: kept in their rows, told in events.

What follows a failure is decided in `service/retries.py`; here it is carried out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.retries import Again, Failed, GivenUp, backoff_seconds, what_next
from service.stages.run import JobRun, StageFailed
from service.stages.supervise import WITHOUT_ROW, Later, supervise
from workers.failures import FailureClass
from workers.launching.board import Outcome
from workers.launching.work import GroupUnit, Work
from workers.training.config import can_split


@dataclass
class _Record:
    """One unit's."""

    alone: list[Failed] = field(default_factory=list)
    times: int = 0
    microbatches: int = 1


class Tries:
    """The failures of a job's units, those of earlier attempts included."""

    def __init__(self, run: JobRun) -> None:
        self._run = run
        self._records = {
            group.id: _Record([Failed(*each) for each in group.tries], group.failures, group.microbatches)
            for group in run.store.groups(run.job)
        }

    def microbatches(self, unit: GroupUnit) -> int:
        """Parts that the unit's batches are taken in."""
        return self._of(unit).microbatches

    def failed_together(self, units: Sequence[GroupUnit], outcome: Outcome, then: str, seconds: float = 0.0) -> None:
        """Nobody can say whose fault it was, so it counts against nobody's budget.  `then`: what is tried, in words."""
        for unit in units:
            self._note(unit, outcome)
        ids = ", ".join(unit.id for unit in units)
        kind = "group_retried" if seconds else "pass_split"
        self._tell(kind, f"{ids}: {_sentence(outcome.error)} {then}{_when(seconds)}.", units, outcome, seconds)

    def failed_alone(self, unit: GroupUnit, outcome: Outcome, checkpoint: str) -> Again | GivenUp:
        """What is tried next.  `checkpoint` names the newest one there is; empty: none."""
        record = self._of(unit)
        record.alone.append(Failed(failure_of(outcome), checkpoint))
        kinds = [task.kind for task in self._run.spec.tasks if task.name in unit.tasks]
        trains = unit.num_steps > 0 or unit.kind == "shared"
        found = what_next(
            record.alone,
            microbatches=record.microbatches,
            can_split=unit.kind == "measure" or can_split(self._run.spec.training, kinds),
            has_batches=trains or unit.kind == "measure",
            base_seconds=self._run.settings.backoff_seconds,
        )
        if isinstance(found, GivenUp):
            self._note(unit, outcome)
            return found
        halved = found.microbatches > record.microbatches
        record.microbatches = found.microbatches
        self._note(unit, outcome)
        then = "It is tried again from its last checkpoint" if trains else "It is tried again"
        if halved:
            then += (
                f", every batch in {found.microbatches} parts: a step needs less memory and more time, and comes to "
                "the same up to rounding"
            )
        self._tell(
            "group_retried",
            f"{unit.id}: {_sentence(outcome.error)} {then}{_when(found.seconds)}.",
            [unit],
            outcome,
            found.seconds,
        )
        return found

    def _of(self, unit: GroupUnit) -> _Record:
        return self._records.setdefault(unit.id, _Record())

    def _note(self, unit: GroupUnit, outcome: Outcome) -> None:
        record = self._of(unit)
        record.times += 1
        if unit.kind not in WITHOUT_ROW:
            self._run.update_group(
                unit.id,
                state="waiting",
                reason=outcome.error,
                failure=failure_of(outcome),
                failures=record.times,
                tries=[[each.failure, each.checkpoint] for each in record.alone],
                microbatches=record.microbatches,
            )

    def _tell(self, kind: str, message: str, units: Sequence[GroupUnit], outcome: Outcome, seconds: float) -> None:
        data: dict[str, Any] = {
            "groups": [unit.id for unit in units],
            "failure": failure_of(outcome),
            "failures": max(self._of(unit).times for unit in units),
            "seconds": round(seconds, 3),
            "microbatches": max(self._of(unit).microbatches for unit in units),
        }
        self._run.event(kind, message, level="warning", data=data)


def run_alone(
    run: JobRun,
    work: Work,
    *,
    said: str = "",
    come_to: Callable[[], str] = lambda: "",
    on_poll: Callable[[], None] = lambda: None,
) -> Any:
    """Runs a work of one unit to its end, tries again as its failures allow, and returns what it found.

    None if the work ended before its time, as it was asked to.  StageFailed, which begins with `said`, once it is given
    up.  `come_to` names what it has come to so far, such as its newest checkpoint; empty: nothing.
    """
    (unit,) = work.groups
    tries = Tries(run)
    work = replace(work, microbatches=tries.microbatches(unit))
    found: list[Any] = []

    def on_end(work: Work, outcome: Outcome) -> list[Later]:
        if outcome.kind != "failed":
            found.append(outcome.value)
            return []
        match tries.failed_alone(unit, outcome, come_to()):
            case Again(seconds, microbatches):
                return [Later(replace(work, microbatches=microbatches), seconds)]
            case GivenUp(why):
                reason = given_up(outcome, why)
                if unit.kind not in WITHOUT_ROW:
                    run.update_group(unit.id, state="failed", reason=reason)
                raise StageFailed(said + reason, outcome.traceback, failure_of(outcome))

    supervise(run, [work], on_end, on_poll)
    return found[0]


def failure_of(outcome: Outcome) -> FailureClass:
    """A work that ended without its result, and without a word, is ours."""
    return outcome.fault or FailureClass.BUG


def given_up(outcome: Outcome, why: str) -> str:
    """Why nothing more is tried, for its user."""
    return f"{_sentence(outcome.error)} {why}" if why else outcome.error or "It ended without a result."


def company_seconds(run: JobRun) -> float:
    """The wait before a pass that fell as a whole is tried again."""
    return backoff_seconds(1, run.settings.backoff_seconds)


def newest_checkpoint(directory: Path) -> str:
    """The name of the newest checkpoint's commit; empty: none."""
    return max((path.name for path in directory.glob("step-*.json")), default="")


def _sentence(error: str) -> str:
    error = error or "it ended without a result"
    return error if error.endswith(".") else f"{error}."


def _when(seconds: float) -> str:
    return f", in {seconds:.1f} s" if seconds >= 0.05 else ", at once"
