"""The finished job that a job goes on from, if it does: a job with new tasks, or one that runs a plan again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.artifacts import JobFiles
from service.measurements import DATASETS
from service.reading import quoted
from service.stages.run import JobRun, StageFailed


@dataclass(frozen=True)
class Parent:
    """The finished job that a job goes on from."""

    run: JobRun
    """As its own stages saw it; nothing is written through it."""
    plan: int
    """The number of the plan that the job begins with."""

    def file(self, path: str) -> Path:
        """One of its files.  StageFailed if it is gone."""
        if not self.run.files.exists(path):
            raise StageFailed(
                f"This job goes on from {self.run.job}, whose file {path} is gone. Submit all tasks as a new job."
            )
        return self.run.files.path(path)

    def text(self, path: str) -> str:
        """What is in one of its files.  StageFailed if it is gone; Damaged."""
        self.file(path)
        return self.run.files.read_text(path)


def parent_of(run: JobRun) -> Parent | None:
    """The job that this one goes on from; None for a job that begins by itself."""
    job = run.store.get_job(run.job)
    if job.parent is None:
        return None
    assert job.parent_plan is not None, "a job with a parent begins with one of its plans"
    parent = run.store.get_job(job.parent)
    files = JobFiles(run.settings.storage_place, parent.id)
    view = JobRun(parent.id, parent.attempt, parent.spec, run.store, files, run.launcher, run.settings)
    return Parent(view, job.parent_plan)


def new_tasks(run: JobRun, parent: Parent) -> list[str]:
    """Tasks that the parent does not have."""
    known = {task.name for task in parent.run.spec.tasks}
    return [task.name for task in run.spec.tasks if task.name not in known]


def known_datasets(run: JobRun) -> dict[str, dict[str, Any]]:
    """What the parent's validation found, by task; nothing without a parent."""
    parent = parent_of(run)
    if parent is None:
        return {}
    parent.file(DATASETS)
    return {task["name"]: task for task in parent.run.files.read_json(DATASETS)["tasks"]}


def tell_goes_on(run: JobRun) -> None:
    """An event on what the job goes on from, and on what it leaves out."""
    parent = parent_of(run)
    if parent is None:
        return
    new = new_tasks(run, parent)
    run.event(
        "goes_on",
        f"Goes on from {parent.run.job} with {len(new)} new task(s), {quoted(new)}, beside its plan {parent.plan}."
        if new
        else f"Runs plan {parent.plan} of {parent.run.job}.",
        data={"parent": parent.run.job, "plan": parent.plan, "new": new},
    )
    if "all" in parent.run.spec.baselines and "all" not in run.spec.baselines:
        run.event("baseline_left_out", "The baseline all is left out: with new tasks it would train every task anew.")


def zero_shot_parts(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The job's tasks, in the parts in which they are looked at with nothing trained: those of every generation.

    `found` is what validation found, by task.
    """
    parts: dict[int, tuple[str, ...]] = {}
    for name, task in found.items():
        generation = task.get("generation", 1)
        parts[generation] = (*parts.get(generation, ()), name)
    return [parts[generation] for generation in sorted(parts)]
