"""Finished jobs to report on: made-up measurements of any number of tasks, with the project's own plans."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest

from grouping.arbitration import Arbitration, arbitrate, second_round
from grouping.config import GroupingConfig
from grouping.measurement import Measurement, TaskFacts, measure
from grouping.plan import Plan, plan_from, trivial_plan
from grouping.review import Review, review
from grouping.trials import first_round
from service.curves import Curve
from service.gains import gains
from service.records import PlanRow
from service.report_inputs import GroupRun, ReportInputs, ReportJob, TaskScores
from service.spec import Baseline, JobSpec
from service.wire_gains import Gain
from workers.training.results import TaskResult

FAMILIES = ("digits", "shapes", "textures")


def signatures(names: tuple[str, ...], silent: int = 0) -> tuple[np.ndarray, Measurement]:
    """Gradients in three families, of twelve layers of text and image prompts; the last `silent` tasks have none."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(len(FAMILIES), 48))
    signal = np.stack([centres[i % len(FAMILIES)] for i in range(len(names))])
    gradients = signal + rng.normal(scale=0.8, size=(2, 4, len(names), 48))
    gradients[:, :, len(names) - silent :] = 0.0
    blocks = [f"{tower}.{layer}" for tower in ("text", "image") for layer in range(12)]
    facts = TaskFacts(np.ones((2, 4, len(names))), block_names=blocks, block_offsets=np.arange(0, 49, 2))
    return gradients, measure(gradients, names, facts)


@cache
def measured_plan(names: tuple[str, ...], silent: int = 0) -> Plan:
    return plan_from(signatures(names, silent)[1], GroupingConfig())


@cache
def review_of(names: tuple[str, ...], silent: int = 0) -> Review:
    return review(*signatures(names, silent), measured_plan(names, silent), resamples=10)


def gains_of(scores: Sequence[TaskScores]) -> list[Gain]:
    """Gains with intervals of made-up images, as far apart as the scores."""
    rng = np.random.default_rng(3)

    def result(score: TaskScores, rate: float) -> TaskResult:
        images = rng.permutation(np.arange(score.num_test) < round(rate * score.num_test)).astype(float).tolist()
        return TaskResult(score.task, "g", score.metric, rate, {score.metric: rate}, 0.1, score.num_test, None, images)

    ways: dict[Baseline, dict[str, TaskResult]] = {
        way: {s.task: result(s, rate) for s in scores if (rate := getattr(s, way)) is not None}
        for way in ("zero_shot", "alone", "all")
    }
    return gains({s.task: result(s, s.grouped) for s in scores if s.grouped is not None}, ways)


def arbitration_of(plan: Plan) -> Arbitration:
    """Trials in which the first group's first task loses by its group."""
    rng = np.random.default_rng(5)
    groups = plan.outline().groups
    harmed = next(iter(groups.values()))[0]

    def scores(group: frozenset[str], task: str) -> list[float]:
        rate = 0.6 if len(group) == 1 else 0.5 if len(group) == len(plan.task_names) else 0.75
        return (rng.random(200) < (0.2 if task == harmed and len(group) > 1 else rate)).astype(float).tolist()

    found = {group: {task: scores(group, task) for task in sorted(group)} for group in first_round(groups)}
    named = dict.fromkeys(plan.task_names, 0.5)
    similarity = {task: {other: value for other, value in named.items() if other != task} for task in plan.task_names}
    for group in second_round(groups, found, similarity, plan.settings):
        found[group] = {task: scores(group, task) for task in sorted(group)}
    return arbitrate(groups, found, similarity, plan.settings)


def curve(group: str, task: str, seed: int, num_steps: int = 300) -> list[Curve]:
    rng = np.random.default_rng(seed)
    steps = np.arange(1, num_steps + 1)
    losses = 2.0 * np.exp(-steps / 90) + 0.3 + rng.normal(scale=0.06, size=num_steps)
    validated = steps[59::60]
    scores = 0.9 - 0.4 * np.exp(-validated / 80) + rng.normal(scale=0.01, size=len(validated))
    return [
        Curve(group, task, "loss", tuple(zip(steps.tolist(), losses.tolist(), strict=True))),
        Curve(group, task, "val_score", tuple(zip(validated.tolist(), scores.tolist(), strict=True))),
    ]


def spec_of(tasks: list[str], **changes: object) -> JobSpec:
    entries = [{"name": f"task-{i}", "source": {"kind": "demo", "task": "digits-ink"}} for i in range(len(tasks))]
    return JobSpec.model_validate({"name": "job", "backbone": {"model": "demo"}, "tasks": entries, **changes})


def drawn_scores(
    tasks: Sequence[str], plan: Plan, rng: np.random.Generator, *, class_names: tuple[str, ...], num_test: int
) -> list[TaskScores]:
    """Accuracies of a job that nobody trained, drawn so that groups mostly help."""
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    return [
        TaskScores(
            task=task,
            group=group_of[task],
            metric="accuracy",
            class_names=class_names,
            num_test=num_test,
            grouped=round(float(rng.uniform(0.7, 0.95)), 3),
            zero_shot=round(float(rng.uniform(0.2, 0.6)), 3),
            alone=round(float(rng.uniform(0.7, 0.9)), 3),
            all=round(float(rng.uniform(0.6, 0.9)), 3),
        )
        for task in tasks
    ]


def finished_job(
    names: tuple[str, ...],
    *,
    plan: Plan,
    job_name: str = "many small tasks",
    class_names: tuple[str, ...] = ("zero", "one", "two"),
    **changes: object,
) -> ReportInputs:
    rng = np.random.default_rng(len(names))
    scores = drawn_scores(names, plan, rng, class_names=class_names, num_test=1000)
    runs = [
        GroupRun("shared", "shared", names, group_shared=15364, seconds=41.5, steps=300, images=4800 * len(names)),
        *(
            GroupRun(group.id, "plan", tuple(group.tasks), 15364, 15364 * len(group.tasks), 75.25, 300, 4800)
            for group in plan.groups
        ),
        GroupRun("all", "all", names, 15364, 0, 3725.0, 300, 4800),
        *(GroupRun(f"alone-{task}", "alone", (task,), 0, 15364, 9.5, 300, 4800) for task in names),
        GroupRun("zero-shot", "zero_shot", names),
    ]
    curves = [c for run in runs if run.steps for i, task in enumerate(run.tasks) for c in curve(run.id, task, i)]
    return ReportInputs(
        job=ReportJob(
            id="job-2f7kqz5m3abc",
            name=job_name,
            spec=spec_of(list(names), **changes),
            written_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
            stage_seconds={"validate": 2.5, "profile": 41.5, "group": 0.4, "train": 3725.0, "publish": 0.7},
        ),
        plan=plan,
        scores=scores,
        runs=runs,
        curves=curves,
        versions={"cohort": "0.1.0", "torch": "2.13.0"},
        warnings=("digits-1: 2 images could not be read.",),
    )


@pytest.fixture(scope="session")
def job_of() -> Callable[..., ReportInputs]:
    """`job_of(tasks)`: a finished job of that many tasks; `origin="alone"` or `"all"` for one that measured nothing,
    `reviewed=True` for one with a review of its plan, gains with intervals, trials and a second plan."""

    def make(
        num_tasks: int, *, origin: str = "gradients", silent: int = 0, reviewed: bool = False, **changes: object
    ) -> ReportInputs:
        names = tuple(f"{FAMILIES[i % len(FAMILIES)]}-{i}" for i in range(num_tasks))
        plan = measured_plan(names, silent) if origin == "gradients" else trivial_plan(names, origin)  # type: ignore[arg-type]
        job = finished_job(names, plan=plan, **changes)  # type: ignore[arg-type]
        if not reviewed:
            return job
        made = datetime(2026, 1, 2, tzinfo=UTC)
        rows = [PlanRow(n, plan.outline(), 1, n == 1, made, made if n == 1 else None) for n in (0, 1)]
        more = {"gains": gains_of(job.scores), "arbitration": arbitration_of(plan), "history": rows}
        return replace(job, review=review_of(names, silent), **more)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def named_job() -> Callable[..., ReportInputs]:
    """`named_job(names, job_name=..., class_names=...)`: a finished job whose tasks have these names."""

    def make(names: tuple[str, ...], **changes: object) -> ReportInputs:
        return finished_job(names, plan=measured_plan(names), **changes)  # type: ignore[arg-type]

    return make
