"""What a user may ask of a job, and what comes of it in every state: one table, which every verb is held to.

A verb that is sent again changes nothing and is no error.  Knows no database and no HTTP.
"""

from enum import StrEnum

from service.errors import Conflict, JobFinished
from service.records import Job
from service.states import TERMINAL, Desired, JobState, Verb


class Answer(StrEnum):
    """What comes of a verb."""

    DONE = "done"
    """It is written down, and comes true by and by."""
    NOTHING = "nothing"
    """It is so already."""
    REFUSED = "refused"
    """It cannot be."""


_D, _N, _R = Answer.DONE, Answer.NOTHING, Answer.REFUSED
_UNFINISHED = (_D, _D, _N, _R, _D, _R, _N, _R, _N)
_TABLE = {
    #                              cancel pause resume retry clone archive unarchive delete restore
    **dict.fromkeys((state for state in JobState if state not in TERMINAL), _UNFINISHED),
    JobState.PAUSED:              (_D,    _N,   _D,    _R,   _D,   _R,     _N,       _R,    _N),
    JobState.SUCCEEDED:           (_R,    _R,   _R,    _R,   _D,   _D,     _N,       _D,    _N),
    JobState.PARTIALLY_SUCCEEDED: (_R,    _R,   _R,    _D,   _D,   _D,     _N,       _D,    _N),
    JobState.FAILED:              (_R,    _R,   _R,    _D,   _D,   _D,     _N,       _D,    _N),
    JobState.CANCELLED:           (_N,    _R,   _R,    _D,   _D,   _D,     _N,       _D,    _N),
}  # fmt: skip
ANSWERS: dict[JobState, dict[Verb, Answer]] = {
    state: dict(zip(Verb, answers, strict=True)) for state, answers in _TABLE.items()
}
"""State -> verb -> what comes of it, for a job that nothing was asked of yet but to pause in PAUSED and to be cancelled
in CANCELLED; `answer` has the rest."""

VERB_OF = {Desired.CANCEL: Verb.CANCEL, Desired.PAUSE: Verb.PAUSE, Desired.RUN: Verb.RESUME}
"""Wish -> the verb that it is written by."""
_WISHES = {verb: wish for wish, verb in VERB_OF.items()}


def answer(verb: Verb, job: Job) -> Answer:
    """What comes of the verb, with all that was asked of the job before."""
    if job.deleted_at is not None:
        return {Verb.DELETE: _N, Verb.RESTORE: _D}.get(verb, _R)
    if not job.is_finished and verb in _WISHES:
        if job.desired == _WISHES[verb]:
            return _N
        return _R if job.desired == Desired.CANCEL else _D
    if job.archived_at is not None and verb in (Verb.ARCHIVE, Verb.UNARCHIVE):
        return _N if verb == Verb.ARCHIVE else _D
    return ANSWERS[job.state][verb]


def check(verb: Verb, job: Job) -> bool:
    """Whether there is anything to do.  Conflict, in words, where the verb is refused."""
    found = answer(verb, job)
    if found is _R:
        raise _refusal(verb, job)
    return found is _D


def possible(job: Job) -> list[Verb]:
    """The verbs that would do something now."""
    return [verb for verb in Verb if answer(verb, job) is _D]


_PAST = {
    Verb.CANCEL: "cancelled",
    Verb.PAUSE: "paused",
    Verb.RESUME: "resumed",
    Verb.RETRY: "retried",
    Verb.CLONE: "cloned",
    Verb.ARCHIVE: "archived",
    Verb.DELETE: "deleted",
    Verb.UNARCHIVE: "taken out of the archive",
}


def _refusal(verb: Verb, job: Job) -> Conflict:
    cannot = f"cannot be {_PAST[verb]}"
    if job.deleted_at is not None:
        return Conflict(f"Job {job.id} is deleted and {cannot}. Restore it first.")
    if job.is_finished and verb in _WISHES:
        return JobFinished(f"Job {job.id} is {job.state} and {cannot}.")
    if job.desired == Desired.CANCEL and verb in _WISHES:
        return Conflict(f"Job {job.id} is being cancelled; that is final. Retry it once it is CANCELLED.")
    instead = {
        Verb.RETRY: "Nothing of it is missing; clone it to train it again."
        if job.is_finished
        else "Wait for its end, or cancel it.",
        Verb.ARCHIVE: "Wait for its end, or cancel it.",
        Verb.DELETE: "Wait for its end, or cancel it.",
    }
    return Conflict(f"Job {job.id} is {job.state} and {cannot}. {instead[verb]}")
