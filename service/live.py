"""A job as it goes: stages, groups, a bar and the time left per group, loss and score as they come.

In a terminal the picture is redrawn in place; elsewhere (a pipe, a CI log) every change is a line.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service import wire
from service.client import Cohort
from service.scores import title
from service.show import duration
from service.states import STAGE_OF, JobState
from workers.data.config import METRICS

POLL_SECONDS = 0.5
_KEPT_EVENTS = 6
_ROWS_AROUND = 6
"""Lines of the picture that are no groups and no events: headline, header, the whole, what is left out."""
_FIRST = ("running", "failed", "stopped", "waiting", "done")
"""Which groups are shown where not all have room."""
_LEVELS = {"error": "red", "warning": "yellow"}


def follow(client: Cohort, job_id: str, console: Console, *, poll_seconds: float = POLL_SECONDS) -> wire.Job:
    """Shows the job until it has finished, and returns it."""
    view = JobView(client, job_id)
    if not console.is_terminal:
        while not view.look():
            _print_lines(view, console)
            time.sleep(poll_seconds)
        _print_lines(view, console)
        return view.job
    with Live(view.picture(console.height), console=console, refresh_per_second=8, transient=False) as live:
        while not view.look():
            live.update(view.picture(console.height))
            time.sleep(poll_seconds)
        live.update(view.picture(console.height))
    return view.job


class JobView:
    """What is known of one job; every look asks only for what is new."""

    def __init__(self, client: Cohort, job_id: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._now = now
        self._first: dict[str, tuple[float, int]] = {}
        self.job = client.job(job_id)
        self.groups: list[wire.Group] = []
        self.new_events: list[wire.Event] = []
        self._events: list[wire.Event] = []
        self._seen_event = 0
        self._seen_metric = 0
        self._scores: dict[str, dict[str, float]] = defaultdict(dict)
        self._told: dict[str, str] = {}

    def look(self) -> bool:
        """Asks for what is new.  True: the job has finished and all is known."""
        self.job = self._client.job(self.job.id)
        self.new_events = self._client.events(self.job.id, after=self._seen_event)
        if self.new_events:
            self._seen_event = self.new_events[-1].seq
            self._events = [*self._events, *self.new_events][-_KEPT_EVENTS:]
        self.groups = self._client.groups(self.job.id).groups
        for group in self.groups:
            if group.state == "running":
                self._first.setdefault(group.id, (self._now(), group.step))
        for metric in self._client.metrics(self.job.id, name="val_score", after=self._seen_metric):
            self._seen_metric = metric.id
            if metric.task is not None and metric.value is not None:
                self._scores[metric.group][metric.task] = metric.value
        return self.job.is_finished

    def picture(self, height: int) -> RenderableType:
        """Stages, groups and the latest events, in at most `height` lines; where groups are left out, it says so."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("group", "tasks", "progress", "", "left", "loss", "validation"):
            table.add_column(column, style=None, header_style="dim", overflow="ellipsis", no_wrap=True)
        room = max(1, height - _ROWS_AROUND - len(self._events))
        chosen = {group.id for group in sorted(self.groups, key=lambda group: _FIRST.index(group.state))[:room]}
        for group in self.groups:
            if group.id in chosen:
                done = group.state == "done"
                total = max(group.num_steps, 1)
                bar = ProgressBar(total=total, completed=total if done else group.step, width=24)
                steps = f"{group.step}/{group.num_steps}" if group.num_steps else ""
                label = Text(f"{steps} {group.state}", style="red" if group.state == "failed" else "")
                row = (bar, label, self.left(group), self.loss(group), self.scores(group))
                table.add_row(group.id, _names(group.tasks), *row)
        lines = [Text(line, style="dim") for line in self._whole(chosen)]
        lines += [Text(f"  {event.message}", style=_LEVELS.get(event.level, "dim")) for event in self._events]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(self._headline(), table, *lines)

    def left(self, group: wire.Group) -> str:
        """About how long a running group has still to train, by the steps since it was first seen; else nothing."""
        if group.state != "running" or group.id not in self._first:
            return ""
        since, step = self._first[group.id]
        done = group.step - step
        return duration((group.num_steps - group.step) * (self._now() - since) / done) if done > 0 else ""

    def _whole(self, shown: set[str]) -> list[str]:
        """How far the groups are together, and how many have no room in the picture."""
        if len(self.groups) < 2:
            return []
        done = sum(group.state == "done" for group in self.groups)
        steps = sum(group.num_steps if group.state == "done" else group.step for group in self.groups)
        of = sum(group.num_steps for group in self.groups)
        hidden = len(self.groups) - len(shown)
        more = f"; {hidden} more are not shown" if hidden else ""
        return [f"  {done} of {len(self.groups)} groups done, step {steps} of {of}{more}"]

    def changed_lines(self) -> list[str]:
        """One line for every group that is in another quarter of its way, or in another state, than when last asked."""
        lines = []
        for group in self.groups:
            quarter = 4 * group.step // group.num_steps if group.num_steps else 0
            mark = f"{group.state} {quarter}"
            if self._told.get(group.id, "waiting 0") != mark:
                self._told[group.id] = mark
                parts = [f"{group.id} ({_names(group.tasks)}): {group.state}"]
                parts += [f"step {group.step}/{group.num_steps}"] if group.num_steps else []
                parts += [f"loss {self.loss(group)}"] if group.losses else []
                parts += [f"val. {self.scores(group)}"] if self.scores(group) else []
                lines.append(", ".join(parts) + (f": {group.reason}" if group.reason else ""))
        return lines

    def loss(self, group: wire.Group) -> str:
        return f"{fmean(group.losses.values()):.3f}" if group.losses else ""

    def scores(self, group: wire.Group) -> str:
        """The mean validation score, for each metric of the group's tasks."""
        values: dict[str, list[float]] = defaultdict(list)
        for task in self.job.spec.tasks:
            if (score := self._scores[group.id].get(task.name)) is not None:
                values[METRICS[task.kind]].append(score)
        return ", ".join(f"{title(metric)} {100 * fmean(scores):.1f} %" for metric, scores in values.items())

    def _headline(self) -> Text:
        """Every stage, those behind us with their seconds, the present one in colour."""
        line = Text(f"{self.job.name} ({self.job.id})  ", style="bold")
        present = STAGE_OF.get(self.job.state)
        for stage in STAGE_OF.values():
            seconds = self.job.stage_times.get(stage)
            if stage == "search" and seconds is None and stage != present:
                continue
            text = f"{stage} {seconds:.0f} s" if seconds is not None and stage != present else stage
            line.append(f"{text}  ", style="cyan" if stage == present else "green" if seconds is not None else "dim")
        line.append(self.job.state, style="bold")
        if self.job.state == JobState.AWAITING_APPROVAL and self.job.plan is not None:
            line.append(f"  (cohort groups {self.job.id}; cohort approve {self.job.id} {self.job.plan.number})")
        return line


def _print_lines(view: JobView, console: Console) -> None:
    for event in view.new_events:
        console.print(Text(f"{event.created_at:%H:%M:%S} {event.message}"), soft_wrap=True)
    for line in view.changed_lines():
        console.print(Text(f"         {line}"), soft_wrap=True)


def _names(tasks: list[str]) -> str:
    return ", ".join(tasks) if len(tasks) <= 4 else f"{', '.join(tasks[:3])} and {len(tasks) - 3} more"
