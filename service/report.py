"""The report of a job: one HTML file that explains itself without a network, a script or a server.

`ReportInputs` holds all that it tells; whoever has a finished job fills it.  Nothing is measured or decided here, and
no file of the job is read: differences, means and drawings follow from the inputs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from grouping.plan import Plan
from service.curves import NUM_COLOURS, Chart, Curve, chart
from service.heat_map import heat_map, shown_order
from service.scores import LEGENDS, by_metric, title
from service.spec import JobSpec
from workers.launching.trials import words

Kind = Literal["plan", "all", "alone", "zero_shot", "shared"]
BASELINES = {"zero_shot": "zero-shot", "alone": "alone", "all": "all in one"}
MAX_TRIALS_SHOWN = 50


@dataclass(frozen=True)
class ReportJob:
    """Which job it was."""

    id: str
    name: str
    spec: JobSpec
    written_at: datetime
    """When this report was made."""
    stage_seconds: Mapping[str, float]
    """Stage -> seconds over all attempts, in the order of the stages."""


@dataclass(frozen=True)
class TaskScores:
    """Test scores (0..1) of one task.  None: this was not trained, or failed."""

    task: str
    group: str | None
    """Its group in the plan; None if the plan excluded it."""
    metric: str
    """What the scores are."""
    class_names: tuple[str, ...]
    num_test: int
    grouped: float | None = None
    zero_shot: float | None = None
    alone: float | None = None
    all: float | None = None
    num_captions: int = 0
    """Of a retrieval task, which has no classes."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """All that was measured in its group, by name."""
    details: Mapping[str, float] = field(default_factory=dict)
    """What the method says of the task, by name."""

    def difference(self, baseline: str) -> float | None:
        """Score in its group minus a baseline's, or None if either is missing."""
        other = getattr(self, baseline)
        return None if self.grouped is None or other is None else self.grouped - other

    @property
    def transfer_difficulty(self) -> float | None:
        """Accuracy of guessing over zero-shot accuracy (Yu et al. 2023, Figure 4); None where either is not known."""
        if self.metric != "accuracy" or not self.zero_shot:  # with nothing right it is beyond all numbers
            return None
        return 1 / (len(self.class_names) * self.zero_shot)


@dataclass(frozen=True)
class Means:
    """Plain means over the tasks of one metric that have a value."""

    metric: str
    num_tasks: int
    scores: Mapping[str, float | None]
    """By way: `grouped` and the baselines."""
    differences: Mapping[str, float | None]
    """By baseline: what the groups gained."""


@dataclass(frozen=True)
class GroupRun:
    """What the training of one group took; baselines are groups, too.  None: nobody counted it."""

    id: str
    kind: Kind
    tasks: tuple[str, ...]
    group_shared: int | None = None
    """Learned numbers that all tasks of the group share."""
    task_specific: int | None = None
    """Learned numbers of the tasks' own, all tasks together."""
    seconds: float | None = None
    steps: int | None = None
    images: int | None = None
    """Training images seen."""
    failure: str | None = None
    """Why it did not finish."""

    @property
    def learned(self) -> int | None:
        """Learned numbers in all."""
        known = [number for number in (self.group_shared, self.task_specific) if number is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class ReportInputs:
    """All that a report tells."""

    job: ReportJob
    plan: Plan
    scores: Sequence[TaskScores]
    """One per task of the job, in its order."""
    runs: Sequence[GroupRun]
    curves: Sequence[Curve] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    search: Mapping[str, Any] | None = None
    """What `search.json` holds; None: nothing was searched."""


@dataclass(frozen=True)
class Panel:
    """The charts of one group, or of all tasks that trained alone, for its tasks of one metric."""

    title: str
    metric: str
    loss: Chart | None
    score: Chart | None


def render_report(inputs: ReportInputs) -> str:
    """The report as one HTML document."""
    order = shown_order(inputs.plan)
    return _template().render(
        job=inputs.job,
        plan=inputs.plan,
        scores=_by_group(inputs.scores, order),
        runs=_costs(inputs.runs),
        versions=inputs.versions,
        warnings=inputs.warnings,
        baselines={name: title for name, title in BASELINES.items() if name in inputs.job.spec.baselines},
        means=[_means(metric, scores) for metric, scores in by_metric(inputs.scores).items()],
        legends=LEGENDS,
        measured=[score for score in inputs.scores if len(score.metrics) > 1],
        difficulty=inputs.job.spec.method.kind == "taskres",
        details=list(dict.fromkeys(name for score in inputs.scores for name in score.details)),
        hurt=[score.task for score in inputs.scores if (score.difference("alone") or 0) < 0],
        learned=sum(run.learned or 0 for run in inputs.runs if run.kind == "plan"),
        reasons={reason.task: reason for reason in inputs.plan.tasks},
        order=order,
        heat=heat_map(inputs.plan),
        panels=_panels(inputs),
        search=inputs.search,
        max_trials=MAX_TRIALS_SHOWN,
        spec=yaml.safe_dump(inputs.job.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100),
    )


def _by_group(scores: Sequence[TaskScores], order: list[str]) -> list[TaskScores]:
    """In the order of the heat map, so that a group's tasks stand together; tasks without a place there come last."""
    place = {task: number for number, task in enumerate(order)}
    return sorted(scores, key=lambda score: place.get(score.task, len(place)))


def _costs(runs: Sequence[GroupRun]) -> list[GroupRun]:
    """The runs, those that finished alone summed up in one: they are as many as tasks."""
    alone = [run for run in runs if run.kind == "alone" and run.failure is None]
    others = [run for run in runs if run not in alone]
    if not alone:
        return others
    counted = ("group_shared", "task_specific", "seconds", "steps", "images")
    sums: dict[str, Any] = {name: sum(getattr(run, name) or 0 for run in alone) for name in counted}
    return [*others, GroupRun("alone", "alone", tuple(task for run in alone for task in run.tasks), **sums)]


def _panels(inputs: ReportInputs) -> list[Panel]:
    """One panel for every run with curves, those that trained alone together in one."""
    titles = {
        "shared": "Shared prompt, all tasks",
        "all": "Baseline: all in one",
        "alone": "Baseline: every task alone",
    }
    sections: dict[str, list[Curve]] = {}
    tasks = [score.task for score in inputs.scores]
    for kind in ("plan", "shared", "all", "alone"):
        for run in inputs.runs:
            if run.kind == kind:
                found = [curve for curve in inputs.curves if curve.group == run.id]
                sections.setdefault(titles.get(kind, f"Group {run.id}"), []).extend(found)
    metrics = by_metric(inputs.scores)
    panels = []
    for heading, curves in sections.items():
        named = tasks if len(tasks) <= NUM_COLOURS else [task for task in tasks if any(c.task == task for c in curves)]
        colours = {task: number for number, task in enumerate(named[:NUM_COLOURS], start=1)}
        for metric, scores in metrics.items():
            mine = {score.task for score in scores}
            loss, score = (
                chart([curve for curve in curves if curve.quantity == quantity and curve.task in mine], colours)
                for quantity in ("loss", "val_score")
            )
            if loss or score:
                panels.append(Panel(heading + f", by {title(metric)}" * (len(metrics) > 1), metric, loss, score))
    return panels


def _means(metric: str, scores: Sequence[TaskScores]) -> Means:
    return Means(
        metric=metric,
        num_tasks=len(scores),
        scores={way: _mean([getattr(score, way) for score in scores]) for way in ("grouped", *BASELINES)},
        differences={name: _mean([score.difference(name) for score in scores]) for name in BASELINES},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The plain mean over the tasks that have a value."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    """A difference in percentage points, signed; what rounds to nothing has no sign."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _direction(value: float | None) -> str:
    text = _points(value)
    return "up" if text.startswith("+") else "down" if text.startswith("−") else "same"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min" if seconds >= 3600 else f"{minutes} min {int(seconds % 60):02d} s"
    )


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}".replace(",", "\u202f")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("service"),
        autoescape=True,  # task, class and job names are strangers' words
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "direction": _direction,
        "duration": _duration,
        "count": _count,
        "setting": words,
        "metric": title,
        "number": _number,
    }
    return environment.get_template("report.html")
