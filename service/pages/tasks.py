"""The table of a job's tasks: what each scored, and how far that is from its baselines; filtered, sorted, in pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from service import wire
from service.gains import PER_IMAGE
from service.scores import WAYS, by_metric
from service.wire_gains import Gain

PAGE = 100
SORTS = ("", "task", "group", "grouped", *WAYS)
Sort = Literal["", "task", "group", "grouped", "zero_shot", "alone", "all"]
"""By the job's own order, by a name, by the score in the group, or by the difference to a baseline, the worst first."""


@dataclass(frozen=True)
class TaskRow:
    """One task."""

    scores: wire.Comparison
    group: str | None
    """Its group in the plan, also before it has a score."""
    differences: dict[str, float | None]
    """Baseline -> score in its group minus the baseline's."""
    gains: dict[str, Gain]
    """Baseline -> the same with an interval, where that was measured."""


@dataclass(frozen=True)
class TaskPage:
    """Some rows of the table, and what is true of all that the filter leaves."""

    rows: list[TaskRow]
    num_found: int
    means: list[TaskRow]
    """Means over the tasks of one metric; their `task` is the number of tasks."""
    next: int | None


def task_page(
    results: wire.Results,
    plan: Sequence[wire.Group],
    *,
    text: str = "",
    group: str = "",
    sort: Sort = "",
    start: int = 0,
) -> TaskPage:
    """From the row `start` on, at most `PAGE` rows.  `plan`: the groups of the plan."""
    planned = {task: each.id for each in plan for task in each.tasks}
    gains = {(gain.task, gain.against): gain for gain in results.gains if gain.task is not None}
    rows = [_row(row, row.group or planned.get(row.task), gains) for row in results.table]
    rows = [row for row in rows if text.lower() in row.scores.task.lower() and group in ("", row.group)]
    rows.sort(key=lambda row: _key(row, sort))
    overall = {(gain.metric, gain.against): gain for gain in results.gains if gain.task is None}
    is_all = len(rows) == len(results.table)
    means = [
        _mean(metric, found, overall if is_all else {})
        for metric, found in by_metric([row.scores for row in rows]).items()
        if len(found) > 1
    ]
    return TaskPage(
        rows=rows[start : start + PAGE],
        num_found=len(rows),
        means=means,
        next=start + PAGE if len(rows) > start + PAGE else None,
    )


def _row(scores: wire.Comparison, group: str | None, gains: dict[tuple[str, str], Gain]) -> TaskRow:
    own = {way: gains[scores.task, way] for way in WAYS if (scores.task, way) in gains}
    return TaskRow(scores, group, _differences(scores), own)


def _differences(scores: wire.Comparison) -> dict[str, float | None]:
    def difference(other: float | None) -> float | None:
        return None if scores.grouped is None or other is None else scores.grouped - other

    return {way: difference(getattr(scores, way)) for way in WAYS}


def _mean(metric: str, rows: Sequence[wire.Comparison], gains: Mapping[tuple[str, str], Gain]) -> TaskRow:
    """Means over tasks that have every value: two columns are only comparable over the same tasks."""

    def mean(way: str) -> float | None:
        known = [value for row in rows if (value := getattr(row, way)) is not None]
        return fmean(known) if len(known) == len(rows) else None

    ways = {way: mean(way) for way in (*WAYS, "grouped")}
    scores = wire.Comparison(task=str(len(rows)), metric=metric, group=None, **ways)
    own = {
        way: gains[name, way]
        for way in WAYS
        for name in (metric, PER_IMAGE.get(metric, metric))
        if (name, way) in gains
    }
    return TaskRow(scores, None, _differences(scores), own)


def _key(row: TaskRow, sort: Sort) -> tuple:
    """What is not known comes last."""
    match sort:
        case "":
            return ()
        case "task":
            return (row.scores.task,)
        case "group":
            return (row.group is None, len(row.group or ""), row.group or "", row.scores.task)
        case "grouped":
            value = row.scores.grouped
        case _:
            value = row.differences[sort]
    return (value is None, value or 0.0)
