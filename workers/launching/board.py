"""What a running group has to tell: progress, log lines and how its work ended, as plain values.

Standard library only, because every group's actor imports this module and has to start in a blink.
"""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

MAX_KEPT = 2000
"""Reports and lines kept for a reader that does not come; the oldest go first."""


class ProgressRow(TypedDict):
    """`workers.training` progress as plain values: losses and accuracies by task, accuracies on validation images."""

    group: str
    step: int
    num_steps: int
    losses: dict[str, float]
    accuracies: dict[str, float]
    images_per_second: float
    lr: float


@dataclass(frozen=True)
class Outcome:
    """How a work ended.  `failed` carries a sentence, whose fault it was, and the traceback for the log."""

    kind: Literal["done", "stopped", "failed"]
    value: Any = None
    """What `execute` returned, where the work is done."""
    error: str = ""
    fault: Literal["", "user", "bug", "crash"] = ""
    """`user`: the settings or the data; `bug`: ours; `crash`: the process or its machine is gone."""
    traceback: str = ""


@dataclass(frozen=True)
class Update:
    """What happened since the last poll; `outcome` is set once, with the last update."""

    progress: tuple[ProgressRow, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    """(group, line), in order within a group."""
    outcome: Outcome | None = None


class GroupBoard:
    """Progress and lines of one group, written by the worker's thread and taken away by the driver's."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.latest: ProgressRow | None = None
        self._rows: list[ProgressRow] = []
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def report(self, row: ProgressRow) -> str:
        """Keeps the progress; returns the log line that tells it."""
        with self._lock:
            self.latest = row
            self._rows = [*self._rows[-MAX_KEPT + 1 :], row]
        return self.log(progress_line(row))

    def log(self, text: str) -> str:
        """Keeps a line under the present time (UTC); a text of several lines stays together."""
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}"
        with self._lock:
            self._lines = [*self._lines[-MAX_KEPT + 1 :], line]
        return line

    def take(self) -> tuple[list[ProgressRow], list[str]]:
        """Everything since the last call, and forgets it."""
        with self._lock:
            rows, self._rows = self._rows, []
            lines, self._lines = self._lines, []
        return rows, lines


def progress_line(row: ProgressRow) -> str:
    """One line a person can follow: step, losses, validation accuracies, speed."""
    parts = [f"step {row['step']}/{row['num_steps']}"]
    if row["losses"]:
        parts.append("loss " + " ".join(f"{task}={value:.4f}" for task, value in row["losses"].items()))
    if row["accuracies"]:
        parts.append("val " + " ".join(f"{task}={value:.1%}" for task, value in row["accuracies"].items()))
    if row["images_per_second"]:
        parts.append(f"{row['images_per_second']:.0f} images/s")
    return " | ".join(parts)
