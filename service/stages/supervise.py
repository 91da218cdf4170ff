"""Runs works to their end on the launcher's workers: starts them as workers come free, writes down what they tell,
and hands every wish on.

A wish is seen within one poll, and the work ends within one training step of that.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from service.stages.run import Interrupted, JobRun, StaleAttempt
from service.states import JobState
from workers.launching.board import Outcome, Update
from workers.launching.launcher import Running
from workers.launching.work import Work
from workers.training.results import Progress

log = logging.getLogger(__name__)

WITHOUT_ROW = ("validate", "measure", "search", "estimate")
"""Kinds of units that train no group of the job: what they do is told by events and artifacts."""
MAX_POLL_SECONDS = 1.0
PAUSE_GRACE_SECONDS = 60.0
GRACE_SHARE = 0.7
"""Of the time that the coordinator grants, the part left to the works: the rest is for writing how it ended."""


@dataclass(frozen=True)
class Later:
    """A work that begins in a while."""

    work: Work
    seconds: float


def supervise(
    run: JobRun,
    works: Sequence[Work],
    on_end: Callable[[Work, Outcome], Sequence[Work | Later]],
    on_poll: Callable[[], None] = lambda: None,
) -> None:
    """Runs `works` in order, as many at a time as the launcher can.

    `on_end` hears how each ended and may answer with works to run in its place, at once or later; `on_poll` is called
    once a look.  A work that gives no sign of life for too long is ended, which is a failure of its machine.  When the
    job's wish changes, all that run are asked to checkpoint and end, and `Interrupted` is raised once they have.
    """
    waiting = deque(works)
    lacks = ""

    def room_for(work: Work) -> int:
        nonlocal lacks
        try:
            room, lacks = run.launcher.capacity(work.devices), ""
        except ValueError as error:  # they were there when the attempt began, so a machine is gone
            if not lacks:
                told = f"A machine is gone and waited for: {error}"
                run.event("waits_for_devices", told, level="warning")
            room, lacks = 0, str(error)
        return room

    later: list[tuple[float, Work]] = []
    running: list[Running] = []
    try:
        while waiting or running or later:
            run.check()
            now = time.monotonic()
            waiting.extend(work for due, work in later if due <= now)
            later = [(due, work) for due, work in later if due > now]
            while waiting and len(running) < room_for(waiting[0]):
                running.append(_start(run, waiting.popleft()))
            run.launcher.wait(running, min(run.settings.poll_seconds, MAX_POLL_SECONDS))
            for ended, outcome in _poll(run, running):
                running.remove(ended)
                for following in on_end(ended.work, outcome):
                    if isinstance(following, Later):
                        later.append((time.monotonic() + following.seconds, following.work))
                    else:
                        waiting.append(following)
            on_poll()
    except Interrupted as wish:
        _wind_down(run, running, _grace_seconds(run, wish))
        raise
    except StaleAttempt:
        for each in running:
            each.stop()
        raise


def _start(run: JobRun, work: Work) -> Running:
    started = run.launcher.start(work)
    for unit in work.groups:
        if unit.kind not in WITHOUT_ROW:
            run.update_group(unit.id, state="running", worker=started.worker, reason=None, failure=None)
    return started


def _poll(run: JobRun, running: Sequence[Running]) -> list[tuple[Running, Outcome]]:
    """Writes down what is new; returns the works that have ended."""
    ended: list[tuple[Running, Outcome]] = []
    for each in list(running):
        update = each.poll()
        record(run, update)
        silent = each.silent_seconds
        if update.outcome is None and silent > run.settings.stall_seconds:
            each.abandon()
            outcome = each.poll().outcome
            assert outcome is not None, "a work that is abandoned has ended"
            told = f"it gave no sign of life for {silent:.0f} s and was ended"
            update = Update(outcome=replace(outcome, error=told))
        if update.outcome is not None:
            ended.append((each, update.outcome))
    return ended


def record(run: JobRun, update: Update) -> None:
    """Progress into rows, lines into the groups' logs."""
    latest = {progress.group: progress for progress in update.progress}
    for group, progress in latest.items():
        run.update_group(group, step=progress.step, num_steps=progress.num_steps, losses=progress.losses)
    run.add_metrics([point for progress in update.progress for point in _points(progress)])
    run.event_files.add(update.progress, flush=update.outcome is not None)
    for progress in update.progress:
        for kind, told in progress.warnings:
            run.event(kind, told, level="warning", data={"group": progress.group})
    texts: dict[str, list[str]] = {}
    for group, line in update.lines:
        texts.setdefault(group, []).append(line)
    for group, lines in texts.items():
        run.files.append_log(group, lines)


def _points(progress: Progress) -> list[dict]:
    point = {"group": progress.group, "step": progress.step}
    return [
        *({**point, "task": task, "name": "loss", "value": value} for task, value in progress.losses.items()),
        *({**point, "task": task, "name": "val_loss", "value": value} for task, value in progress.val_losses.items()),
        *({**point, "task": task, "name": "val_score", "value": value} for task, value in progress.scores.items()),
        {**point, "task": None, "name": "images_per_second", "value": progress.images_per_second},
        {**point, "task": None, "name": "lr", "value": progress.lr},
    ]


def _wind_down(run: JobRun, running: list[Running], seconds: float) -> None:
    """Asks all to end and waits for their checkpoints, but not for ever: closing the launcher ends the rest.

    Nothing is waited for that still waits for a device itself, or for its process to start.
    """
    for each in running:
        each.stop()
    deadline = time.monotonic() + seconds
    while running and time.monotonic() < deadline:
        run.launcher.wait(running, min(run.settings.poll_seconds, MAX_POLL_SECONDS))
        for ended, outcome in _poll(run, running):
            running.remove(ended)
            _end_rows(run, ended.work, "failed" if outcome.kind == "failed" else "stopped", outcome.error)
        for each in [each for each in running if not each.has_begun]:
            running.remove(each)
            each.abandon()
            _end_rows(run, each.work, "stopped")
    for each in running:
        groups = ", ".join(unit.id for unit in each.work.groups)
        run.event(
            "checkpoint_late",
            f"{groups} did not end within {seconds:.0f} s; the last checkpoint counts.",
            level="warning",
        )
        each.abandon()


def _end_rows(run: JobRun, work: Work, state: str, reason: str = "") -> None:
    for unit in work.groups:
        if unit.kind not in WITHOUT_ROW:
            run.update_group(unit.id, state=state, reason=reason or None)


def _grace_seconds(run: JobRun, wish: Interrupted) -> float:
    if wish.to is JobState.PAUSED:
        return PAUSE_GRACE_SECONDS
    allowed = run.settings.cancel_grace_seconds if wish.to is JobState.CANCELLED else run.settings.drain_seconds
    return GRACE_SHARE * allowed
