"""What kind of thing went wrong: the class decides whether trying again can help, how often, and who has to act."""

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
