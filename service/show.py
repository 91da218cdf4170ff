"""How jobs, groups, similarities and results look in a terminal: `service.wire` messages in, renderables out."""

import sys
from datetime import UTC, datetime

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from service import show_why, wire
from service.scores import WAYS, by_metric, common_title, gain_sentences, title
from service.states import JobState

_COLOURS = {
    JobState.SUCCEEDED: "green",
    JobState.PARTIALLY_SUCCEEDED: "yellow",
    JobState.FAILED: "red",
    JobState.CANCELLED: "dim",
    JobState.PAUSED: "yellow",
    JobState.AWAITING_APPROVAL: "magenta",
}
_WAYS = (*WAYS.items(), ("grouped", "Cohort's groups"))
_WHOLE = frozenset({"job", "state", "tasks", "age", "group", "cohesion"})
"""Columns whose cells are never broken, however narrow the terminal."""
_NUM_NEAREST = 3


def console(*, error: bool = False) -> Console:
    """Standard output, or standard error; wide where no terminal says how wide it is, so that pipes get whole lines."""
    file = sys.stderr if error else sys.stdout
    return Console(file=file, width=None if file.isatty() else 160)


def jobs_table(jobs: list[wire.JobSummary]) -> Table:
    """One row a job."""
    table = _table("job", "name", "state", "tasks", "method", "age", "reason")
    for job in jobs:
        age = _age(job.created_at)
        table.add_row(job.id, Text(job.name), state(job), str(job.num_tasks), job.method, age, Text(job.reason or ""))
    return table


def job_lines(job: wire.Job) -> Table:
    """A job's facts."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts = {
        "job": job.id,
        "name": job.name,
        "state": state(job),
        "reason": job.reason,
        "waits for": _waits(job),
        "wish": None if job.desired == "run" or job.is_finished else f"asked to {job.desired}",
        "tasks": ", ".join(task.name for task in job.spec.tasks),
        "goes on from": None if job.parent is None else f"{job.parent}, plan {job.parent_plan}",
        "retries": job.retry_of,
        "method": f"{job.method} on {job.spec.backbone.model}",
        "plan": None
        if job.plan is None
        else f"{job.plan.number} ({'approved' if job.plan.approved else 'to approve'})",
        "stages": "  ".join(f"{stage} {seconds:.1f} s" for stage, seconds in job.stage_times.items()),
        "attempt": str(job.attempt),
        "Ray job": job.submission_id,
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "archived": _when(job.archived_at),
        "deleted": None if job.purge_at is None else f"{_when(job.deleted_at)}; gone from {_when(job.purge_at)} on",
        "can be asked": ", ".join(job.verbs),
    }
    for name, value in facts.items():
        if value:
            table.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(value))
    return table


def _waits(job: wire.Job) -> str | None:
    if job.queue is None:
        return None
    place = "" if job.queue.position is None else f" Number {job.queue.position} in line."
    start = "" if job.queue.starts_at is None else f" It starts at about {_when(job.queue.starts_at)}."
    return f"{job.queue.waits_for}{place}{start}"


def groups_table(groups: wire.Groups, *, plan_only: bool = True) -> Table:
    """Who trains with whom, and why."""
    table = _table("group", "tasks", "cohesion", "state", "why")
    for group in groups.groups:
        if group.kind == "plan" or not plan_only:
            cohesion = "" if group.cohesion is None else f"{group.cohesion:.2f}"
            why = group.why or group.reason or ""
            table.add_row(group.id, Text(", ".join(group.tasks)), cohesion, group.state, Text(why))
    return table


def groups_whole(groups: wire.Groups, matrix: wire.Similarity) -> list[RenderableType]:
    """All that is known of a plan: the matrix, the groups, how sure they are, and every task's reason."""
    parts: list[RenderableType] = [SimilarityTable(matrix)] if matrix.similarity else []
    parts.append(groups_table(groups))
    if groups.plan is not None:
        parts.append(show_why.plan_lines(groups.plan))
        if groups.plan.agreements:
            parts.append(show_why.agreements_table(groups.plan))
        if groups.plan.arbitration is not None:
            parts.append(show_why.arbitration_table(groups.plan.arbitration))
    return [*parts, *(part for task in groups.tasks for part in ("", show_why.reason_lines(task)))]


def reasons_table(groups: wire.Groups) -> Table:
    """Why each task is where it is."""
    table = _table("task", "group", "why")
    for task in groups.tasks:
        table.add_row(Text(task.task), task.group, Text(task.sentence))
    return table


class SimilarityTable:
    """The matrix, similar tasks side by side; where it is too wide, every task with those that agree with it most."""

    def __init__(self, similarity: wire.Similarity) -> None:
        self._similarity = similarity

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = _matrix(self._similarity)
        fits = Measurement.get(console, options.update(width=10**6), whole).minimum <= options.max_width
        yield whole if fits else _nearest(self._similarity)


def _nearest(similarity: wire.Similarity) -> Table:
    """A row a task, in the order of the matrix."""
    matrix = similarity.similarity or []
    place = {name: index for index, name in enumerate(similarity.task_names)}
    table = _table("task", "agrees most with")
    for name in _order(similarity):
        row = matrix[place[name]]
        others = {other: value for other, index in place.items() if other != name and (value := row[index]) is not None}
        best = sorted(others, key=others.__getitem__, reverse=True)[:_NUM_NEAREST]
        table.add_row(Text(name), Text(", ".join(f"{other} {others[other]:+.2f}" for other in best) or "?"))
    table.caption = "The whole matrix is too wide for this terminal; --json has it."
    return table


def _matrix(similarity: wire.Similarity) -> Table:
    matrix = similarity.similarity or []
    order = _order(similarity) if matrix else []
    place = {name: index for index, name in enumerate(similarity.task_names)}
    table = _table("", *(str(index + 1) for index in range(len(order))), right=True)
    for number, row in enumerate(order, start=1):
        values = {column: matrix[place[row]][place[column]] for column in order}
        cells = [_similarity("·" if column == row else None, value) for column, value in values.items()]
        table.add_row(Text(f"{number} {row}"), *cells)
    return table


def _order(similarity: wire.Similarity) -> list[str]:
    return [name for name in similarity.order if name in similarity.task_names]


def results_table(results: wire.Results) -> Table:
    """Test scores in per cent, one row a task; the best of a row is bold.  Means are over tasks of one metric."""
    metrics = by_metric(results.table)
    named = list(metrics) != ["accuracy"]
    table = _table("task", "group", *["metric"] * named, *(header for _, header in _WAYS), right=True)
    for row in results.table:
        metric = [title(row.metric)] * named
        table.add_row(Text(row.task), row.group or "-", *metric, *_cells([getattr(row, way) for way, _ in _WAYS]))
    table.add_section()
    for metric, rows in metrics.items():
        means = [_mean([getattr(row, way) for row in rows]) for way, _ in _WAYS]
        table.add_row("mean", "", *[title(metric)] * named, *_cells(means))
    return table


def results_whole(results: wire.Results) -> list[RenderableType]:
    """The scores, and what the groups gained over every baseline, with intervals."""
    if not results.gains:
        return [results_table(results)]
    heading = Text("Gain of the groups on test images, in points (95 % interval)", style="bold")
    told = gain_sentences(results.gains, num_groups=len({row.group for row in results.table}))
    return [results_table(results), heading, show_why.gains_table(results.gains), *told]


def results_title(results: wire.Results) -> str:
    """What the table of results shows."""
    return f"Test {common_title(results.table)}, %"


def plain_table(columns: list[str], rows: list[list[str]]) -> Table:
    """Any other table: words to the left, numbers to the right."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(rows) and rows[-1][index].replace(",", "").replace(".", "").isdigit()
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def state(job: wire.JobSummary) -> Text:
    return Text(job.state, style=_COLOURS.get(job.state, "cyan"))


def _cells(values: list[float | None]) -> list[Text]:
    best = max((value for value in values if value is not None), default=None)
    return [
        Text(
            "-" if value is None else f"{100 * value:.1f}", style="bold" if value == best and value is not None else ""
        )
        for value in values
    ]


def _mean(values: list[float | None]) -> float | None:
    """None unless every task has a value: two columns of means are only comparable over the same tasks."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _similarity(instead: str | None, value: float | None) -> Text:
    """A cell of the matrix; `?` where a task has no usable gradient."""
    if value is None:
        return Text(instead or "?", style="dim")
    return Text(instead or f"{value:+.2f}", style="red" if value > 0.3 else "blue" if value < -0.3 else "")


def _when(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """A span of time, roughly: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _age(since: datetime) -> str:
    seconds = int((datetime.now(UTC) - since).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def _table(*columns: str, right: bool = False) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = right and index > 0 and column not in ("group", "metric")
        whole = numbers or column in _WHOLE
        table.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=whole)
    return table
