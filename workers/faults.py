"""Named points at which a fault can be made to happen, so that tests can show what comes of it.

Nothing happens at a point unless a plan is armed.  A plan is a setting, e.g. `driver.profiled:kill,store.write:full@3`:
a point, what happens there, and the how-manieth time the point is passed (1 if left out).  Standard library only.
"""

import errno
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

ACTIONS = ("kill", "stop", "crash", "full", "io", "denied", "memory", "hang")


class Crash(BaseException):
    """The thread ends here as if its process had been killed; nothing that catches exceptions catches it."""


@dataclass(frozen=True)
class Fault:
    """One fault of a plan."""

    point: str
    action: str
    """kill: SIGKILL to this process; stop: SIGSTOP; crash: `Crash`; full, io, denied: OSError (ENOSPC, EIO, EACCES);
    memory: MemoryError; hang: the thread sleeps for ever."""
    at: int = 1
    """The how-manieth passing of the point."""


_armed: dict[tuple[str, int], Fault] = {}
_ledger: Path | None = None
_passed: dict[str, int] = {}
_lock = threading.Lock()


def parse(plan: str) -> list[Fault]:
    """The faults of a plan.  ValueError for what is none."""
    return [_fault(part.strip()) for part in plan.split(",") if part.strip()]


def arm(plan: str, ledger: Path | None = None) -> None:
    """Makes the plan's faults happen in this process from now on, counting from now; an empty plan disarms.

    With a ledger, a folder that processes share, every fault happens in one of them, once.
    """
    global _ledger
    faults = {(fault.point, fault.at): fault for fault in parse(plan)}
    with _lock:
        _ledger = ledger
        _passed.clear()
        _armed.clear()
        _armed.update(faults)


def point(name: str) -> None:
    """Passes a point; what is armed for it happens."""
    if not _armed:
        return
    with _lock:
        _passed[name] = count = _passed.get(name, 0) + 1
        fault = _armed.get((name, count))
    if fault is not None and _is_new(fault):
        log.warning("fault at %s (passed %d time(s)): %s", name, count, fault.action)
        _happen(fault)


def passed() -> dict[str, int]:
    """Point -> how often it was passed in this process since a plan was armed."""
    with _lock:
        return dict(_passed)


def _fault(text: str) -> Fault:
    name, colon, rest = text.partition(":")
    action, _, count = rest.partition("@")
    if not name or not colon or action not in ACTIONS or (count and not count.isdigit()) or count == "0":
        raise ValueError(f"fault {text!r}: expected POINT:ACTION or POINT:ACTION@N, with one of {', '.join(ACTIONS)}.")
    return Fault(name, action, int(count or 1))


def _is_new(fault: Fault) -> bool:
    """Notes in the ledger that the fault happens; False if it is noted already."""
    if _ledger is None:
        return True
    _ledger.mkdir(parents=True, exist_ok=True)
    try:
        (_ledger / f"{fault.point}-{fault.action}-{fault.at}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _happen(fault: Fault) -> None:
    numbers = {"full": errno.ENOSPC, "io": errno.EIO, "denied": errno.EACCES}
    match fault.action:
        case "kill" | "stop":
            os.kill(os.getpid(), signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)
        case "crash":
            raise Crash(fault.point)
        case "memory":
            raise MemoryError(f"out of memory at {fault.point} (a fault that was asked for)")
        case "hang":
            while True:
                time.sleep(3600)
        case _:
            number = numbers[fault.action]
            raise OSError(number, os.strerror(number), fault.point)
