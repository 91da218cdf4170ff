"""Runs works in this process, one after another on one thread: no Ray, no server, the same results.

For tests, notebooks and machines where a cluster would be the larger part of the job.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence

from workers.failures import FailureClass
from workers.launching.board import GroupBoard, Outcome, Update
from workers.launching.execute import ClipCache, attempt, execute
from workers.launching.launcher import Launcher, Running
from workers.launching.search_config import SearchConfig
from workers.launching.work import GroupUnit, Work
from workers.training.results import Progress

CLOSE_SECONDS = 60.0
"""How long the launcher waits for its thread in the end; one that hangs is left behind."""


class InlineRunning(Running):
    """A work that waits for, or runs on, the launcher's thread."""

    def __init__(self, work: Work, device: str, replace_thread: Callable[["InlineRunning"], None]) -> None:
        super().__init__(work)
        self.boards = {unit.id: GroupBoard(unit.id) for unit in work.groups}
        self.ended = threading.Event()
        self.outcome: Outcome | None = None
        self._device = device
        self._stop = threading.Event()
        self._replace_thread = replace_thread
        self._alive_at: float | None = None

    @property
    def worker(self) -> str:
        return f"inline ({self._device})"

    def run(self, clip_cache: ClipCache) -> Outcome:
        """Does the work on the calling thread."""

        def should_stop() -> bool:
            self._alive_at = time.monotonic()
            return self._stop.is_set()

        def report(progress: Progress) -> None:
            self._alive_at = time.monotonic()
            self.boards[progress.group].report(progress)

        def log(text: str) -> None:
            self._alive_at = time.monotonic()
            for board in self.boards.values():
                board.log(text)

        return attempt(
            lambda: execute(
                self.work,
                clip_cache=clip_cache,
                device=self._device,
                should_stop=should_stop,
                report=report,
                log=log,
            )
        )

    def poll(self) -> Update:
        outcome = self.outcome if self.ended.is_set() else None  # read first: what follows then is all there will be
        progress: list[Progress] = []
        lines: list[tuple[str, str]] = []
        for group, board in self.boards.items():
            rows, texts = board.take()
            progress += rows
            lines += [(group, text) for text in texts]
        return Update(tuple(progress), tuple(lines), outcome)

    def stop(self) -> None:
        self._stop.set()

    def abandon(self) -> None:
        self._stop.set()  # should its thread ever come back
        if not self.ended.is_set():
            self.outcome = Outcome("failed", error="it was ended where it was", fault=FailureClass.INFRASTRUCTURE)
            self.ended.set()
            self._replace_thread(self)

    @property
    def silent_seconds(self) -> float:
        return 0.0 if self._alive_at is None or self.ended.is_set() else time.monotonic() - self._alive_at


class InlineLauncher(Launcher):
    """One worker thread in this process with one frozen backbone."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._queue: queue.SimpleQueue[InlineRunning | None] = queue.SimpleQueue()
        self._started: list[InlineRunning] = []
        self._an_end = threading.Condition()
        self._current: InlineRunning | None = None
        self._thread = self._new_thread()
        self._thread.start()

    def capacity(self, devices: int = 1) -> int:
        if devices != 1:
            raise ValueError(
                f"devices_per_group={devices}: running in this process has one device. Use 1, or run the job on Ray."
            )
        return 1

    def sharers(self) -> int:
        return 1

    def check_search(self, search: SearchConfig) -> None:
        raise ValueError(
            "search: hyper-parameters are searched with Ray Tune, and this job runs in one process without Ray. "
            "Run it on Ray (`cohort up`, then `cohort submit`), or set search to null."
        )

    def announce(self, job: str, attempt: int, groups: Sequence[GroupUnit], *, devices: int = 1) -> None:
        """Nothing to do: nobody looks into this process from outside."""

    def show_stage(self, job: str, stage: str) -> None:
        """Nothing to do: nobody looks into this process from outside."""

    def start(self, work: Work) -> InlineRunning:
        running = InlineRunning(work, self._device, self._replace_thread)
        self._started.append(running)
        self._queue.put(running)
        return running

    def wait(self, running: Sequence[Running], seconds: float) -> None:
        mine = [r for r in running if isinstance(r, InlineRunning)]
        with self._an_end:
            self._an_end.wait_for(lambda: any(r.ended.is_set() for r in mine), timeout=seconds)

    def close(self) -> None:
        for running in self._started:
            running.stop()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._serve, name="cohort-inline-worker", daemon=True)

    def _replace_thread(self, hung: InlineRunning) -> None:
        """Leaves the thread to the work that hangs in it; the works that wait get another."""
        if self._current is hung:
            self._thread = self._new_thread()
            self._thread.start()

    def _serve(self) -> None:
        clip_cache: ClipCache = {}
        me = threading.current_thread()
        while self._thread is me and (running := self._queue.get()) is not None:
            if running.ended.is_set():  # abandoned before its turn
                continue
            self._current = running
            outcome = running.run(clip_cache)
            if self._thread is not me:
                return
            with self._an_end:
                self._current, running.outcome = None, outcome
                running.ended.set()
                self._an_end.notify_all()
