"""Which processes are ours, and their end.  Linux only: it reads /proc.

A process id alone names nobody, because ids are used again; an id with its start time does.  Descendants are found by a
mark in their environment, which every child inherits, and by descent, because some programs overwrite what they show of
their environment.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from service.errors import HeadFailed

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process for ever: its id, and when it started (clock ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this id now, if any is alive (a zombie is not)."""
        status = _status(pid)
        return None if status is None else cls(pid, status[1])

    def is_alive(self) -> bool:
        return Process.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if the process is still there."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def marked(mark: str) -> set[Process]:
    """All processes with `mark` (`NAME=value`) in their environment, and all that descend from them.  ValueError."""
    if not all(mark.partition("=")):
        raise ValueError(f"Mark {mark!r}: expected NAME=value; anything less could be anybody's process.")
    if not _PROC.is_dir():
        raise HeadFailed("A Ray head of one's own needs Linux's /proc. Start Ray yourself and set COHORT_RAY_ADDRESS.")
    wanted = mark.encode()
    parents: dict[int, int] = {}
    found: dict[int, Process] = {}
    for entry in _PROC.iterdir():
        status = _status(int(entry.name)) if entry.name.isdigit() else None
        if status is None:
            continue
        pid = int(entry.name)
        parents[pid] = status[0]
        with contextlib.suppress(OSError):  # another user's process, or one that has just ended: not ours
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found[pid] = Process(pid, status[1])
    grew = True
    while grew:
        below = [pid for pid, parent in parents.items() if parent in found and pid not in found]
        found.update({pid: process for pid in below if (process := Process.of(pid)) is not None})
        grew = any(pid in found for pid in below)
    found.pop(os.getpid(), None)
    return set(found.values())


def end(processes: set[Process], *, seconds: float) -> None:
    """SIGTERM, and SIGKILL for those that are still there after `seconds`."""
    for process in processes:
        process.send(signal.SIGTERM)
    if not wait_until_gone(processes, seconds=seconds):
        for process in processes:
            process.send(signal.SIGKILL)
        wait_until_gone(processes, seconds=2.0)


def wait_until_gone(processes: set[Process], *, seconds: float) -> bool:
    """Whether all ended within that time."""
    deadline = time.monotonic() + seconds
    while any(process.is_alive() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _status(pid: int) -> tuple[int, int] | None:
    """(parent's id, start time); None for no such process or a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))
