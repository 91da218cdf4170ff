"""What kind of thing went wrong: the class decides whether trying again can help, how often, and who has to act.

Standard library only: errors of torch, Ray and the object stores are known by the names of their classes.
"""

import errno
from enum import StrEnum


class FailureClass(StrEnum):
    """The only list of classes."""

    USER = "user"
    """The job's settings are at fault; the same again fails again."""
    DATA = "data"
    """Images, labels or captions are at fault, or have changed."""
    OUT_OF_MEMORY = "out_of_memory"
    """A device or its machine has too little memory for a batch."""
    INFRASTRUCTURE = "infrastructure"
    """A process, a machine or the network is gone, or hangs."""
    PREEMPTION = "preemption"
    """The machine was taken away on purpose."""
    STORAGE = "storage"
    """A file could not be written or read: the disk is full, or refuses."""
    TIMEOUT = "timeout"
    """The job's own deadline is over."""
    BUG = "bug"
    """Ours."""


class DataError(ValueError):
    """Images, labels or captions are at fault, or have changed."""


_MEMORY_WORDS = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "low on memory",
)
_NETWORK = frozenset({errno.EBUSY, errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH})
"""Of an OSError that will pass: object stores say EBUSY for `slow down`."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GONE = frozenset(
    {
        "ConnectionError",
        "TimeoutError",
        "TransportError",  # of httpx: no connection, or one that broke
        "LocalEntryNotFoundError",  # of a hub that could not be asked
        "gaierror",
        "RayActorError",
        "WorkerCrashedError",
        "NodeDiedError",
        "LocalRayletDiedError",
        "ObjectLostError",
        "RaySystemError",
        "RpcError",
        "AuthenticationError",  # of a Ray head that was started anew: it knows nobody of before
        "GetTimeoutError",
        "StorageMissing",  # on this machine; another may see it
        "DuplicateAttempt",  # ends with the attempt that holds the names
        "OperationalError",  # of a database
        "InterfaceError",
    }
)
_NETWORK_ROOMS = ("botocore.", "aiobotocore.", "aiohttp.")


def classify(error: BaseException) -> FailureClass:
    """The class of an exception, whoever raised it."""
    names = {cls.__name__ for cls in type(error).__mro__}
    number = error.errno if isinstance(error, OSError) else None
    if "OutOfMemoryError" in names or isinstance(error, MemoryError) or number == errno.ENOMEM:
        return FailureClass.OUT_OF_MEMORY
    if not isinstance(error, ValueError | OSError) and any(words in str(error) for words in _MEMORY_WORDS):
        return FailureClass.OUT_OF_MEMORY
    if "PreemptionError" in names or getattr(error, "preempted", False):
        return FailureClass.PREEMPTION
    if names & _GONE or number in _NETWORK or type(error).__module__.startswith(_NETWORK_ROOMS):
        return FailureClass.INFRASTRUCTURE
    if isinstance(error, OSError):
        return FailureClass.STORAGE
    if isinstance(error, DataError):
        return FailureClass.DATA
    return FailureClass.USER if isinstance(error, ValueError) else FailureClass.BUG


def is_full(error: BaseException) -> bool:
    """Whether there is no room left where it was written: whoever writes there next fails as well."""
    return isinstance(error, OSError) and error.errno in _FULL
