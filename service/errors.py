"""What can go wrong between a user and the service: one small tree, told in sentences.

Every class carries its message as the first argument and nothing that cannot be pickled, because Ray carries exceptions
between processes.  HTTP status codes are not known here: `api` has the one table from class to status.
"""


class CohortError(ValueError):
    """A wish that cannot be granted as it was put.  Says what was given, what was expected, what to do."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class SpecError(CohortError):
    """A job description that is not one.

    Args: the whole message, and one `(path, problem)` per fault, e.g. `("tasks[0].template", "given ...")`.
    """

    def __init__(self, message: str, problems: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message, problems)

    @property
    def problems(self) -> tuple[tuple[str, str], ...]:
        return self.args[1]


class NotFound(CohortError):
    """What was asked for does not exist."""


class JobNotFound(NotFound):
    """No job has this id."""


class PlanNotFound(NotFound):
    """The job has no plan of this number (yet)."""


class ArtifactNotFound(NotFound):
    """The job has no such file (yet)."""


class KeyNotFound(NotFound):
    """No API key has this prefix."""


class Conflict(CohortError):
    """The wish is well put, but the thing's present state does not allow it."""


class QuotaExceeded(Conflict):
    """The tenant has used up what it may use."""


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was used before, with another body."""


class JobFinished(Conflict):
    """Finished jobs never change."""


class IllegalMove(Conflict):
    """The table of allowed moves has no such move."""


class StaleLease(Conflict):
    """Whoever writes held a lease that somebody else holds by now."""


class UnreadableSpec(CohortError):
    """The description of an accepted job is none, for this version of the service."""


class BadCursor(CohortError):
    """A page cursor that no listing handed out."""


class DatabaseUnavailable(CohortError):
    """The database does not answer, or broke off in the middle."""


class StorageUnavailable(CohortError):
    """The storage of files does not answer, or refuses."""


class ArtifactDamaged(CohortError):
    """A file of a job is not what was written."""


class RayUnavailable(CohortError):
    """Ray's Jobs API does not answer; whoever asked waits and asks again."""


class ServiceRunning(CohortError):
    """Another control plane already works on this home folder."""


class HeadFailed(CohortError):
    """The embedded Ray head did not start, or cannot be stopped."""
