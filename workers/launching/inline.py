"""Runs works in this process, one after another on one thread: no Ray, no server, the same results.

For tests, notebooks and machines where a cluster would be the larger part of the job.
"""

import queue
import threading
from collections.abc import Sequence

from workers.launching.board import GroupBoard, Outcome, Update
from workers.launching.execute import ClipCache, attempt, execute
from workers.launching.launcher import Launcher, Running
from workers.launching.search_config import SearchConfig
from workers.launching.work import GroupUnit, Work
from workers.training.results import Progress


class InlineRunning(Running):
    """A work that waits for, or runs on, the launcher's thread."""

    def __init__(self, work: Work, device: str) -> None:
        super().__init__(work)
        self.boards = {unit.id: GroupBoard(unit.id) for unit in work.groups}
        self.ended = threading.Event()
        self.outcome: Outcome | None = None
        self._device = device
        self._stop = threading.Event()

    @property
    def worker(self) -> str:
        return f"inline ({self._device})"

    def run(self, clip_cache: ClipCache) -> Outcome:
        """Does the work on the calling thread."""

        def report(progress: Progress) -> None:
            self.boards[progress.group].report(progress)

        def log(text: str) -> None:
            for board in self.boards.values():
                board.log(text)

        return attempt(
            lambda: execute(
                self.work,
                clip_cache=clip_cache,
                device=self._device,
                should_stop=self._stop.is_set,
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


class InlineLauncher(Launcher):
    """One worker thread in this process with one frozen backbone."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._queue: queue.SimpleQueue[InlineRunning | None] = queue.SimpleQueue()
        self._started: list[InlineRunning] = []
        self._an_end = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="cohort-inline-worker", daemon=True)
        self._thread.start()

    def capacity(self, devices: int = 1) -> int:
        if devices != 1:
            raise ValueError(
                f"devices_per_group={devices}: running in this process has one device. Use 1, or run the job on Ray."
            )
        return 1

    def check_search(self, search: SearchConfig) -> None:
        raise ValueError(
            "search: hyper-parameters are searched with Ray Tune, and this job runs in one process without Ray. "
            "Run it on Ray (`cohort up`, then `cohort submit`), or set search to null."
        )

    def announce(self, job: str, attempt: int, groups: Sequence[GroupUnit], *, devices: int = 1) -> None:
        """Nothing to do: nobody looks into this process from outside."""

    def start(self, work: Work) -> InlineRunning:
        running = InlineRunning(work, self._device)
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
        self._thread.join()

    def _serve(self) -> None:
        clip_cache: ClipCache = {}
        while (running := self._queue.get()) is not None:
            running.outcome = running.run(clip_cache)
            with self._an_end:
                running.ended.set()
                self._an_end.notify_all()
