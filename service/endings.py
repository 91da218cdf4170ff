"""What the end of a driver means that left its job in the middle of things.  Pure: it asks nobody and moves nothing."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from service.retries import BUDGETS, backoff_seconds
from service.settings import Settings
from service.spec import JobSpec
from service.states import JobState
from workers.failures import FailureClass

_OUT_OF_MEMORY = re.compile(r"OutOfMemory|MemoryError|out of memory", re.IGNORECASE)
_PREEMPTED = re.compile(r"\b(preempt(ed|ion)|drained)\b", re.IGNORECASE)
_LOGGED = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ [A-Z]+ .*$", re.MULTILINE)
"""What a driver told while it lived: of its groups, in its user's words."""


@dataclass(frozen=True)
class Ending:
    """How an attempt's driver ended."""

    attempt: int
    state: JobState
    """In which it left its job."""
    status: str | None
    """Ray's; None: Ray does not know it."""
    said: str = ""
    """The last of what Ray and the driver said."""
    ended_for: str | None = None
    """Why the coordinator ended it, if it did."""


@dataclass(frozen=True)
class Follows:
    """What comes next for the job."""

    failure: FailureClass
    failures: int
    """Of its attempts, this one included if it counts."""
    seconds: float | None
    """Until the next attempt; None: the job is given up."""
    reason: str


def what_follows(
    ending: Ending,
    *,
    failures: int,
    of_class: Callable[[FailureClass], int],
    settings: Settings,
    chance: Callable[[], float],
) -> Follows:
    """Whether and when the next attempt starts.

    A driver that Ray has forgotten was lost with Ray's head, and a preempted one is nobody's fault: neither counts.

    Args:
        failures: attempts that died before.
        of_class: how many of them of a class.
    """
    why = _why(ending)
    if ending.status is None and ending.state != JobState.STARTING:
        reason = f"{why} Ray's head was lost; no attempt is counted, and the next one starts when there is room."
        return Follows(FailureClass.INFRASTRUCTURE, failures, 0.0, reason)
    failure = _class(ending)
    if failure is FailureClass.PREEMPTION:
        return Follows(failure, failures, 0.0, f"{why} The machine was taken away; no attempt is counted.")
    failures += 1
    budget = min(BUDGETS[failure], settings.max_attempts - 1)
    if failures >= settings.max_attempts or of_class(failure) >= budget:
        return Follows(failure, failures, None, f"{why} That was the last of {failures} attempts.")
    seconds = backoff_seconds(failures, settings.backoff_seconds, chance)
    return Follows(failure, failures, seconds, f"{why} Another one starts in {seconds:.3g} s.")


def deadline_reason(spec: JobSpec) -> str:
    """What a user is told whose job ran into its deadline."""
    return f"deadline_hours={spec.deadline_hours:g} since its first start are over. What it has written stays."


def _class(ending: Ending) -> FailureClass:
    died_of = _LOGGED.sub("", ending.said)
    if ending.ended_for is None and _OUT_OF_MEMORY.search(died_of):
        return FailureClass.OUT_OF_MEMORY
    if ending.ended_for is None and _PREEMPTED.search(died_of):
        return FailureClass.PREEMPTION
    return FailureClass.INFRASTRUCTURE


def _why(ending: Ending) -> str:
    begin = f"Attempt {ending.attempt}"
    if ending.ended_for is not None:
        return f"{begin} hung during {ending.state}: {ending.ended_for}."
    if ending.status is None:
        return f"{begin} was lost during {ending.state}: Ray does not know its driver any more."
    said = f" Its log ended with:\n{ending.said}\n" if ending.said else " Its log is empty."
    return f"{begin} ended during {ending.state}: its driver is {ending.status}.{said}"
