"""A work under way on Ray, as its driver sees it: what it tells, whether it lives, how it is stopped or ended."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from workers.failures import FailureClass, classify
from workers.launching.board import Outcome, Update
from workers.launching.launcher import Running
from workers.launching.work import Work
from workers.training.results import Progress

Actor = Any
"""A handle of an actor: its methods are known to Ray at run time only."""

ANSWER_SECONDS = 0.05
"""How long the driver waits for what groups' actors answer at once, unless they are only starting, or gone."""
LAST_WORDS_SECONDS = 10.0
"""How long the driver waits for the last reports of a work that has ended."""
_SPOILT = (FailureClass.OUT_OF_MEMORY, FailureClass.BUG, FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTION)
"""Failures after which a process is not used again: what it holds may be broken, or fill its device."""


class RayRunning(Running):
    """A work on a device worker, or on the ranks of a group's own Ray Train run."""

    def __init__(self, work: Work, worker: str, groups: dict[str, Actor]) -> None:
        super().__init__(work)
        self.groups = groups
        self.result: Any = None
        self.node = ""
        """Where it runs, once that is known."""
        self._worker = worker
        self._actor: Actor = None
        self._stopper: Any = None
        self._end: Callable[[], None] = lambda: None
        self._revive: Callable[[str], Actor | None] = lambda group: None
        self._stop_asked = False
        self._is_leaving = False
        self._beats: Any = None
        self._beats_heard = 0
        self._alive_at: float | None = None
        self._takes: dict[str, Any] = {}
        self._outcome: Outcome | None = None
        self._still_to_hear: set[str] = set()
        self._hear_until = 0.0

    @property
    def worker(self) -> str:
        return self._worker

    @property
    def has_ended(self) -> bool:
        """Its outcome was read."""
        return self._outcome is not None

    @property
    def is_spoilt(self) -> bool:
        """It left a process behind that is not to be used again."""
        return self._is_leaving or (self._outcome is not None and self._outcome.fault in _SPOILT)

    @property
    def has_begun(self) -> bool:
        return self._alive_at is not None or self.has_ended

    @property
    def silent_seconds(self) -> float:
        return 0.0 if self._alive_at is None or self.has_ended else time.monotonic() - self._alive_at

    def runs_on(
        self,
        actor: Actor,
        result: Any,
        *,
        stop: Callable[[], object],
        end: Callable[[], None],
        revive: Callable[[str], Actor | None] = lambda group: None,
    ) -> None:
        """Where it runs from now on.

        Args:
            actor: answers `beats`.
            result: reference of its outcome.
            stop: asks it to checkpoint and end.
            end: kills what runs it.
            revive: gives a group whose actor died a new one; None: not now.
        """
        self.result, self._actor, self._stopper, self._end, self._revive = result, actor, stop, end, revive
        self._beats, self._alive_at = None, None
        if self._stop_asked:
            stop()

    def poll(self) -> Update:
        self._listen()
        if self._outcome is None and ray.wait([self.result], timeout=0)[0]:
            self._outcome = self._read_outcome()
            self._still_to_hear = set(self.groups)
            self._hear_until = time.monotonic() + LAST_WORDS_SECONDS
            stale, self._takes = self._takes, {}
        else:
            stale = {}
        progress: list[Progress] = []
        lines: list[tuple[str, str]] = []
        for group, ref in stale.items():  # asked before the end: what they hold counts, but it is not the last word
            self._hear(group, ref, progress, lines, wait=LAST_WORDS_SECONDS)
        for group, actor in self.groups.items():
            if group not in self._takes:
                self._takes[group] = actor.take.remote()
        if self._outcome is None:
            ray.wait(list(self._takes.values()), num_returns=len(self._takes), timeout=ANSWER_SECONDS)
        for group in self.groups:
            ref = self._takes.pop(group)
            if not self._hear(group, ref, progress, lines, wait=0.2 if self._outcome else 0.0):
                self._takes[group] = ref
            elif self._outcome is not None:
                self._still_to_hear.discard(group)
        if self._outcome is None or (self._still_to_hear and time.monotonic() < self._hear_until):
            return Update(tuple(progress), tuple(lines))
        return Update(tuple(progress), tuple(lines), self._outcome)

    def stop(self) -> None:
        self._stop_asked = True
        self._stopper()

    def leave(self) -> None:
        """Its machine is about to be taken away: it checkpoints and ends, which is no fault of its own."""
        self._is_leaving = True
        self.stop()

    def abandon(self) -> None:
        if self._outcome is None:
            self._end()
            self._outcome = Outcome("failed", error="it was ended where it was", fault=FailureClass.INFRASTRUCTURE)

    def _listen(self) -> None:
        """Hears whether it is alive: the count of its signs of life has grown since it was last asked."""
        if self._outcome is not None:
            return
        if self._beats is None:
            self._beats = self._actor.beats.remote()
        if ray.wait([self._beats], timeout=0)[0]:
            heard, self._beats = self._beats, None
            try:
                beats, self.node = ray.get(heard)
            except RayError:  # its outcome will tell
                return
            if beats > self._beats_heard:
                self._beats_heard, self._alive_at = beats, time.monotonic()

    def _read_outcome(self) -> Outcome:
        try:
            outcome: Outcome = ray.get(self.result)
        except RayError as error:
            self._end()
            short = next(iter(str(error).strip().splitlines()), "")
            return Outcome(
                "failed",
                error=f"the process that ran it is gone ({type(error).__name__}: {short}). The usual cause is memory: "
                "use a smaller batch_size, or a machine with more of it.",
                fault=classify(error),
                traceback=str(error),
            )
        if self._is_leaving and outcome.kind == "stopped":
            return replace(outcome, kind="failed", error="its machine is taken away", fault=FailureClass.PREEMPTION)
        return outcome

    def _hear(
        self, group: str, ref: Any, progress: list[Progress], lines: list[tuple[str, str]], *, wait: float
    ) -> bool:
        """Adds what a group's actor answered; False while it has not."""
        try:
            rows, texts = ray.get(ref, timeout=wait)
        except GetTimeoutError:
            return False
        except RayError as error:
            if isinstance(error, ActorDiedError) and (actor := self._revive(group)) is not None:
                self.groups[group] = actor
                lines.append((group, "the group's actor was gone, and its last reports with it; it has a new one"))
            return True
        progress += rows
        lines += [(group, text) for text in texts]
        return True
