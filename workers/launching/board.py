"""What a running group has to tell: progress, log lines and how its work ended, as plain values.

Needs the standard library only, because every group's actor imports this module and has to start in a blink.
"""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from workers.failures import FailureClass
from workers.training.results import Progress

MAX_KEPT = 2000
"""Reports and lines kept for a reader that does not come; the oldest go first."""


@dataclass(frozen=True)
class Outcome:
    """How a work ended.  `failed` carries a sentence, the class of the failure, and the traceback for the log."""

    kind: Literal["done", "stopped", "failed"]
    value: Any = None
    """What `execute` returned, where the work is done."""
    error: str = ""
    fault: FailureClass | None = None
    """None unless it failed."""
    hits_all: bool = False
    """Whatever else runs there fails likewise: the disk is full."""
    traceback: str = ""


@dataclass(frozen=True)
class Update:
    """What happened since the last poll; `outcome` is set once, with the last update."""

    progress: tuple[Progress, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    """(group, line), in order within a group."""
    outcome: Outcome | None = None


class GroupBoard:
    """Progress and lines of one group, written by the worker's thread and taken away by the driver's."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.latest: Progress | None = None
        self._rows: list[Progress] = []
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def report(self, progress: Progress) -> str:
        """Keeps the progress; returns the log line that tells it."""
        with self._lock:
            self.latest = progress
            self._rows = [*self._rows[-MAX_KEPT + 1 :], progress]
        return self.log(progress_line(progress))

    def log(self, text: str) -> str:
        """Keeps a line under the present time (UTC); a text of several lines stays together."""
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}"
        with self._lock:
            self._lines = [*self._lines[-MAX_KEPT + 1 :], line]
        return line

    def take(self) -> tuple[list[Progress], list[str]]:
        """Everything since the last call, and forgets it."""
        with self._lock:
            rows, self._rows = self._rows, []
            lines, self._lines = self._lines, []
        return rows, lines


def progress_line(progress: Progress) -> str:
    """One line a person can follow: step, losses, validation scores, speed."""
    parts = [f"step {progress.step}/{progress.num_steps}"]
    if progress.losses:
        parts.append("loss " + " ".join(f"{task}={value:.4f}" for task, value in progress.losses.items()))
    if progress.scores:
        parts.append("val " + " ".join(f"{task}={value:.1%}" for task, value in progress.scores.items()))
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:.0f} images/s")
    return " | ".join(parts)
