"""How far a job is: its stages with their times, and a row a group; the many baselines of one kind share one."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from service import wire
from service.states import STAGE_OF

_SUMMED = {"alone": "every task alone", "trial": "short trials of groups"}
_NAMES = {"shared": "shared prompt", "all": "all in one", "zero_shot": "zero-shot"}


@dataclass(frozen=True)
class StageRow:
    """One stage."""

    name: str
    status: str
    """`done`, `now` or `ahead`."""
    seconds: float | None


@dataclass(frozen=True)
class ProgressRow:
    """A group, or all groups of one kind."""

    id: str | None
    """None: several groups."""
    name: str
    is_baseline: bool
    tasks: int
    state: str
    share: float
    """Of its way, 0..1."""
    steps: str
    loss: float | None
    """Mean over its tasks."""
    reason: str | None


def stage_rows(job: wire.Job) -> list[StageRow]:
    """The job's stages in their order; a search only where there is one."""
    now = STAGE_OF.get(job.state)
    rows = []
    for name in STAGE_OF.values():
        seconds = job.stage_times.get(name)
        if (name == "search" and job.spec.search is None) or (name == "profile" and job.spec.trivial_sharing):
            continue
        rows.append(StageRow(name, "now" if name == now else "ahead" if seconds is None else "done", seconds))
    return rows


def progress_rows(groups: Sequence[wire.Group]) -> list[ProgressRow]:
    """Groups of the plan one by one, then the others; of those that are as many as tasks, the failed ones by name."""
    rows = [_row(group) for group in groups if group.kind not in _SUMMED or group.state == "failed"]
    for kind, name in _SUMMED.items():
        if found := [group for group in groups if group.kind == kind]:
            rows.append(_summed(name, found))
    return rows


def _row(group: wire.Group) -> ProgressRow:
    return ProgressRow(
        id=group.id,
        name=_NAMES.get(group.kind, group.id),
        is_baseline=group.kind != "plan",
        tasks=len(group.tasks),
        state=group.state,
        share=_share(group),
        steps=f"{group.step} of {group.num_steps}" if group.num_steps else "",
        loss=fmean(group.losses.values()) if group.losses else None,
        reason=group.reason,
    )


def _summed(name: str, groups: Sequence[wire.Group]) -> ProgressRow:
    done = sum(group.state == "done" for group in groups)
    running = any(group.state == "running" for group in groups)
    losses = [loss for group in groups for loss in group.losses.values()]
    return ProgressRow(
        id=None,
        name=name,
        is_baseline=True,
        tasks=len({task for group in groups for task in group.tasks}),
        state="done" if done == len(groups) else "running" if running else "waiting",
        share=fmean(map(_share, groups)),
        steps=f"{done} of {len(groups)} done",
        loss=fmean(losses) if losses else None,
        reason=None,
    )


def _share(group: wire.Group) -> float:
    if group.state == "done":
        return 1.0
    return min(1.0, group.step / group.num_steps) if group.num_steps else 0.0
