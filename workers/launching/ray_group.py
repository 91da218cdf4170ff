"""The named actor that stands for one group on the Ray dashboard.

It holds no CPU and computes nothing: it keeps what the device worker reports until the driver takes it away, and shows
it as actor name, log and metrics.  It imports neither torch nor pydantic, so that a job's dozen groups appear at once.
"""

import importlib
import logging
from dataclasses import asdict
from typing import Any

import ray

from workers.launching.board import GroupBoard, Outcome
from workers.launching.ray_metrics import GroupMetrics
from workers.training.results import Progress

NAMESPACE = "cohort"
LONG = "long"
"""The concurrency group of what takes as long as the group's work; all else is heard one by one, in order."""

_long: Any = ray.method(concurrency_group=LONG)

log = logging.getLogger(__name__)


class Group:
    """Progress, log lines and metrics of one group of one job."""

    def __init__(self, job: str, attempt: int, group: str, tasks: list[str]) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")  # to stderr, which the dashboard shows first
        self.job, self.attempt, self.group, self.tasks = job, attempt, group, tasks
        self._board = GroupBoard(group)
        self._stop_requested = False
        self._beats = 0
        self._metrics = GroupMetrics(job, group)
        self._about = {"job": job, "group": group, "attempt": attempt}

    def __repr__(self) -> str:
        return f"Group({self.group}: {', '.join(self.tasks)})"

    def report(self, progress: Progress) -> None:
        """Called by the device worker."""
        self._beats += 1
        log.info(self._board.report(progress), extra=self._about)
        self._metrics.show(progress)

    def log(self, text: str) -> None:
        """Called by the device worker: a line for the group's log."""
        log.info(self._board.log(text), extra=self._about)

    def take(self) -> tuple[list[Progress], list[str]]:
        """Called by the driver, again and again while the group's work goes on: what is new."""
        if self._board.latest is not None:
            self._metrics.show(self._board.latest)
        return self._board.take()

    def state(self) -> dict[str, Any]:
        """Called by whoever looks at the actor from outside."""
        return {
            "job": self.job,
            "attempt": self.attempt,
            "group": self.group,
            "tasks": self.tasks,
            "latest": None if self._board.latest is None else asdict(self._board.latest),
        }

    def request_stop(self) -> None:
        """Asks the ranks of a group over several devices, or the trials of a search, to checkpoint and end."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        """Asked by the ranks, and by the trials."""
        self._beats += 1
        return self._stop_requested

    def beats(self) -> tuple[int, str]:
        """Signs of life of the ranks, or of the trials, so far; where they run is Ray Train's and Tune's affair."""
        return self._beats, ""

    @_long
    def run_ranks(self, work: Any, device: str) -> Outcome:
        """Trains a group over several devices with Ray Train, started from here; `work` is a PassWork.

        The trainer brings torch, so its module is loaded now and not when the actor starts.
        """
        self._begin()
        return importlib.import_module("workers.launching.ray_train").train_on_ranks(work, self.job, self.group, device)

    @_long
    def run_search(self, work: Any, device: str, resources: dict[str, float], max_concurrent: int) -> Outcome:
        """Searches hyper-parameters with Ray Tune, started from here; `work` is a SearchWork."""
        self._begin()
        return importlib.import_module("workers.launching.ray_search").search(
            work,
            device=device,
            resources=resources,
            max_concurrent=max_concurrent,
            stop_requested=lambda: self._stop_requested,
            request_stop=self.request_stop,
            log=self.log,
        )

    def _begin(self) -> None:
        """Wishes and signs of life of an earlier try are none of this one, which may have to wait for its devices."""
        self._stop_requested, self._beats = False, 0


def group_actor_name(job: str, group: str) -> str:
    """The actor's name in namespace `cohort`.  It leaves the attempt out, so that two live attempts collide."""
    return f"{job}/{group}"
