"""Stage `publish`: the bundle, its report, and last of all its manifest, whose presence means complete."""

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from grouping.arbitration import Arbitration
from grouping.review import Review
from service import wire
from service.artifacts import ARBITRATION
from service.curves import Curve
from service.gains import ARTIFACT as GAINS
from service.gains import gains
from service.report import render_report
from service.report_inputs import GroupRun, ReportInputs, ReportJob, TaskScores
from service.stages.arbitrate import read_arbitration
from service.stages.group import read_plan, read_review
from service.stages.run import JobRun
from service.stages.search import ARTIFACT as SEARCH
from service.stages.train import Trained, result_rows
from service.stages.validate import datasets
from service.states import JobState
from service.store import Metric
from workers import faults
from workers.bundle_files import MANIFEST, BundleGroup, BundleTask, write_bundle
from workers.data.config import METRICS
from workers.training.results import GroupResult, TaskResult

FOLDER = "bundle"
DISTRIBUTIONS = ("torch", "open_clip_torch", "numpy", "safetensors")
PAGE = 1000


def publish(run: JobRun, trained: Trained) -> tuple[JobState, str | None]:
    """Writes the bundle of every group that finished; the state that the job ends in, and why it is not all."""
    run.enter(JobState.PUBLISHING)
    found = datasets(run)
    served = {task: group for task, group in trained.units.planned.items() if group in trained.results}
    units = {unit.id: unit for unit in trained.units.units}
    to, reason = JobState.SUCCEEDED, None
    if trained.failures:
        reasons = "; ".join(f"{group}: {why}" for group, why in trained.failures.items())
        to, reason = JobState.PARTIALLY_SUCCEEDED, f"{len(trained.failures)} of {len(units)} groups failed. {reasons}"
    gained, review = _gains(trained), read_review(run)
    arbitration = read_arbitration(run, "The bundle and its report are without it")
    run.files.write_json(GAINS, [gain.model_dump() for gain in gained])
    versions = {"python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS}}
    documents = {
        "spec.json": run.spec.model_dump_json(indent=1),
        "plan.json": read_plan(run).model_dump_json(indent=1),
        "datasets.json": json.dumps(found, indent=1, allow_nan=False),
        "metrics.json": json.dumps(result_rows(trained), indent=1, allow_nan=False),
        "gains.json": run.files.read_text(GAINS),
        "report.html": render_report(
            report_inputs(run, trained, found, gained=gained, review=review, arbitration=arbitration, versions=versions)
        ),
    }
    if review is not None:
        documents["plan-review.json"] = review.model_dump_json(indent=1)
    if arbitration is not None:
        documents[ARBITRATION] = arbitration.model_dump_json(indent=1)
    if run.spec.search is not None:
        documents["search.json"] = run.files.read_text(SEARCH)
    run.check()
    faults.point("driver.bundle.writes")
    # of an attempt that died right after it: what is written now may differ, and until it is whole there is no bundle
    run.files.path(f"{FOLDER}/{MANIFEST}").unlink(missing_ok=True)
    write_bundle(
        run.files.path(FOLDER),
        job=run.job,
        backbone=run.spec.backbone,
        tasks=[
            BundleTask(
                task,
                tuple(found[task]["class_names"]),
                found[task]["template"],
                group,
                found[task]["fingerprint"],
                found[task]["kind"],
                found[task]["num_train"],
            )
            for task, group in served.items()
        ],
        groups=[
            BundleGroup(id, units[id].tasks, units[id].method, run.files.path(f"groups/{id}"))
            for id in dict.fromkeys(served.values())
        ],
        documents=documents,
        versions=versions,
    )
    faults.point("driver.bundle.written")
    run.check()
    return to, reason


def report_inputs(
    run: JobRun,
    trained: Trained,
    found: dict[str, dict[str, Any]],
    *,
    gained: list[wire.Gain],
    review: Review | None,
    arbitration: Arbitration | None,
    versions: dict[str, str],
) -> ReportInputs:
    """What the report tells, gathered from the results, the plan and what drivers wrote along the way."""
    job = run.store.get_job(run.job)
    events = [event for page in _pages(run.store.events, run.job, "seq") for event in page]
    # a resumed attempt warns again of what it finds again: the last word of each kind is enough
    warnings = dict.fromkeys(event.message for event in events if event.level in ("warning", "error"))
    return ReportInputs(
        job=ReportJob(
            id=run.job,
            name=run.spec.name,
            spec=run.spec,
            written_at=datetime.now(UTC),
            stage_seconds=job.stage_times,
        ),
        plan=read_plan(run),
        scores=[_scores(task, trained, found[task]) for task in trained.units.planned],
        runs=_runs(run, trained),
        curves=[*_shared_curves(run), *(curve for result in trained.results.values() for curve in _curves(result))],
        versions=versions,
        warnings=list(warnings),
        search=None if run.spec.search is None else run.files.read_json(SEARCH),
        gains=gained,
        review=review,
        arbitration=arbitration,
        history=run.store.plans(run.job),
    )


def _gains(trained: Trained) -> list[wire.Gain]:
    def results(members: Mapping[str, str]) -> dict[str, TaskResult]:
        return {task: trained.results[id].results[task] for task, id in members.items() if id in trained.results}

    units = trained.units
    return gains(results(units.planned), {way: results(members) for way, members in units.baselines.items()})


def _scores(task: str, trained: Trained, found: dict[str, Any]) -> TaskScores:
    group = trained.units.planned[task]
    ways = {"grouped": group, **{way: members[task] for way, members in trained.units.baselines.items()}}
    results = {way: trained.results[id].results[task] for way, id in ways.items() if id in trained.results}
    return TaskScores(
        task=task,
        group=group,
        metric=METRICS[found["kind"]],
        class_names=tuple(found["class_names"]),
        num_captions=found["num_captions"],
        num_test=found["num_test"],
        metrics=results["grouped"].metrics if "grouped" in results else {},
        details=trained.results[group].details.get(task, {}) if group in trained.results else {},
        **{way: result.score for way, result in results.items()},
    )


def _runs(run: JobRun, trained: Trained) -> list[GroupRun]:
    rows: list[GroupRun] = []
    for group in run.store.groups(run.job):
        row = GroupRun(id=group.id, kind=group.kind, tasks=group.tasks, failure=trained.failures.get(group.id))
        if (result := trained.results.get(group.id)) is not None:
            row = replace(
                row,
                group_shared=result.parameters["group_shared"],
                task_specific=result.parameters["task_specific"],
                seconds=result.seconds,
                steps=result.steps,
                images=result.images,
            )
        rows.append(row)
    return rows


def _curves(result: GroupResult) -> Iterable[Curve]:
    for quantity in ("loss", "val_score"):
        for task in result.tasks:
            points = [(p["step"], p[quantity]) for p in result.curves if p["task"] == task and quantity in p]
            if points:
                yield Curve(result.group, task, quantity, tuple(points))


def _shared_curves(run: JobRun) -> Iterable[Curve]:
    """The shared prompt leaves no result, only what its driver wrote down."""
    points: dict[str, list[tuple[float, float]]] = {}
    for page in _pages(run.store.metrics, run.job, "id", group="shared", name="loss"):
        metrics: list[Metric] = page
        for metric in metrics:
            if metric.task is not None and metric.value is not None:
                points.setdefault(metric.task, []).append((metric.step, metric.value))
    return [Curve("shared", task, "loss", tuple(sorted(line))) for task, line in points.items()]


def _pages(read: Any, job: str, cursor: str, **where: Any) -> Iterable[list[Any]]:
    """Every page of a listing that takes `after` and `limit`."""
    after = 0
    while page := read(job, after=after, limit=PAGE, **where):
        yield page
        after = getattr(page[-1], cursor)
