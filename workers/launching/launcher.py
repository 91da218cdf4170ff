"""The seam between the driver and whatever runs its work: this process, or Ray.

The driver starts works, polls them and asks them to stop; it never learns where they run.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from workers.launching.board import Update
from workers.launching.search_config import SearchConfig
from workers.launching.work import GroupUnit, Work


class DuplicateAttempt(RuntimeError):
    """Another live attempt of the job already owns its groups' names."""


class Running(ABC):
    """A work under way."""

    def __init__(self, work: Work) -> None:
        self.work = work

    @property
    @abstractmethod
    def worker(self) -> str:
        """Where it runs, for a person to read."""

    @abstractmethod
    def poll(self) -> Update:
        """What is new, at once; never raises for a failing work, whose failure is its outcome."""

    @abstractmethod
    def stop(self) -> None:
        """Asks the work to checkpoint and end; returns at once and may be called again."""

    @abstractmethod
    def abandon(self) -> None:
        """Ends the work where it is, without a checkpoint and whether it answers or not; the next poll says so."""

    @property
    def has_begun(self) -> bool:
        """Whether it gave a sign of life, as of the last poll: one that did not has nothing to write down."""
        return True

    @property
    def silent_seconds(self) -> float:
        """Since it last gave a sign of life, as of the last poll; 0 while it waits for its turn or for a device."""
        return 0.0


class Launcher(ABC):
    """Starts works.  Holds whatever they share; `close` ends all of it."""

    num_threads: int = 1
    """Threads that each device worker computes with."""

    @abstractmethod
    def capacity(self, devices: int = 1) -> int:
        """How many works that span `devices` devices each can run at the same time.  ValueError where none ever can."""

    @abstractmethod
    def sharers(self) -> int:
        """How many device workers share one accelerator's memory at most, or without one a machine's."""

    @abstractmethod
    def check_search(self, search: SearchConfig) -> None:
        """ValueError where this launcher cannot run such a search."""

    @abstractmethod
    def announce(self, job: str, attempt: int, groups: Sequence[GroupUnit], *, devices: int = 1) -> None:
        """Makes groups of `devices` devices each visible before their works start.

        Raises `DuplicateAttempt` if another attempt holds them.
        """

    @abstractmethod
    def show_stage(self, job: str, stage: str) -> None:
        """Tells whoever looks from outside what the job is at; called again every few seconds."""

    @abstractmethod
    def start(self, work: Work) -> Running:
        """Begins a work; at most `capacity` may be under way."""

    @abstractmethod
    def wait(self, running: Sequence[Running], seconds: float) -> None:
        """Returns when one of the works has ended or the time is over, whichever is first."""

    @abstractmethod
    def close(self) -> None:
        """Ends everything that this launcher started, finished or not."""
