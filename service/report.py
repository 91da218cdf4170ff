"""The report of a job: one HTML file that explains itself without a network, a script or a server.

`ReportInputs` holds all that it tells; whoever has a finished job fills it.  Nothing is measured or decided here, and
no file of the job is read: differences, means and drawings follow from the inputs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from service import report_text
from service.curves import NUM_COLOURS, Chart, Curve, chart
from service.gains import PER_IMAGE
from service.heat_map import heat_map, shown_order
from service.plan_views import plan_facts, similarity, task_reasons
from service.plan_words import gap_words, signed
from service.report_inputs import GroupRun, ReportInputs, TaskScores
from service.report_plan import agreement_grid, drawn_reasons, least_sure
from service.scores import LEGENDS, WAYS, by_metric, gain_sentences, interval, points, title
from workers.launching.trials import words

MAX_TRIALS_SHOWN = 50
_SCORED_BY = {in_its_place: metric for metric, in_its_place in PER_IMAGE.items()}
"""What gains compare -> the metric of the scores, where that is another."""


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
class Panel:
    """The charts of one group, or of all tasks that trained alone, for its tasks of one metric."""

    title: str
    metric: str
    loss: Chart | None
    score: Chart | None


def render_report(inputs: ReportInputs) -> str:
    """The report as one HTML document."""
    order = shown_order(inputs.plan)
    plan = inputs.plan.model_dump()
    review = None if inputs.review is None else inputs.review.model_dump()
    trials = None if inputs.arbitration is None else inputs.arbitration.model_dump()
    number = next((row.number for row in inputs.history if row.approved), 0)
    reasons = task_reasons(plan, review)
    return _template().render(
        job=inputs.job,
        plan=inputs.plan,
        facts=plan_facts(inputs.plan.outline(), plan, review, trials, number=number, approved=True),
        reasons=drawn_reasons(reasons, order),
        unsure=least_sure(reasons),
        scores=_by_group(inputs.scores, order),
        gains={(gain.task, _SCORED_BY.get(gain.metric, gain.metric), gain.against): gain for gain in inputs.gains},
        gained=gain_sentences(inputs.gains, num_groups=len(inputs.plan.groups)),
        runs=_costs(inputs.runs),
        versions=inputs.versions,
        warnings=inputs.warnings,
        baselines={name: title for name, title in WAYS.items() if name in inputs.job.spec.baselines},
        means=[_means(metric, scores) for metric, scores in by_metric(inputs.scores).items()],
        legends=LEGENDS,
        measured=[score for score in inputs.scores if len(score.metrics) > 1],
        difficulty=inputs.job.spec.method.kind == "taskres",
        details=list(dict.fromkeys(name for score in inputs.scores for name in score.details)),
        hurt=sorted({gain.task for gain in inputs.gains if gain.task and gain.against == "alone" and gain.high < 0}),
        learned=sum(run.learned or 0 for run in inputs.runs if run.kind == "plan"),
        heat=heat_map(inputs.plan, similarity(plan, review)),
        panels=_panels(inputs),
        search=inputs.search,
        history=inputs.history,
        max_trials=MAX_TRIALS_SHOWN,
        spec=yaml.safe_dump(inputs.job.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100),
    )


def _by_group(scores: Sequence[TaskScores], order: list[str]) -> list[TaskScores]:
    """In the order of the heat map, so that a group's tasks stand together; tasks without a place there come last."""
    place = {task: number for number, task in enumerate(order)}
    return sorted(scores, key=lambda score: place.get(score.task, len(place)))


def _costs(runs: Sequence[GroupRun]) -> list[GroupRun]:
    """The runs, those that finished alone summed up in one, and so are the trials: they are as many as tasks."""
    summed = [run for run in runs if run.kind in ("alone", "trial") and run.failure is None]
    shown = [run for run in runs if run not in summed]
    counted = ("group_shared", "task_specific", "seconds", "steps", "images")
    for kind, id in (("alone", "alone"), ("trial", "trials")):
        found = [run for run in summed if run.kind == kind]
        if found:
            sums: dict[str, Any] = {name: sum(getattr(run, name) or 0 for run in found) for name in counted}
            tasks = tuple(dict.fromkeys(task for run in found for task in run.tasks))
            shown.append(GroupRun(id, found[0].kind, tasks, **sums))
    return shown


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
        scores={way: _mean([getattr(score, way) for score in scores]) for way in ("grouped", *WAYS)},
        differences={name: _mean([score.difference(name) for score in scores]) for name in WAYS},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The plain mean over the tasks that have a value."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("service"),
        autoescape=True,  # task, class and job names are strangers' words
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": report_text.percent,
        "points": points,
        "direction": report_text.direction,
        "duration": report_text.duration,
        "count": report_text.count,
        "setting": words,
        "metric": title,
        "number": report_text.number,
        "figure": report_text.figure,
        "signed": signed,
        "grid": agreement_grid,
        "proof": gap_words,
        "interval": lambda gain: interval(gain.low, gain.high),
    }
    return environment.get_template("report.html")
