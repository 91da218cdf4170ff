"""Stage `validate`: reads every image once and writes what was found, with fingerprints, to `datasets.json`."""

from typing import Any

from service.reading import quoted
from service.spec import NO_VALIDATION
from service.stages.run import JobRun, StageFailed
from service.stages.supervise import supervise
from service.states import JobState
from workers.launching.board import Outcome
from workers.launching.work import GroupUnit, ValidateWork, Work
from workers.methods.config import ZeroShotConfig

ARTIFACT = "datasets.json"


def validate(run: JobRun) -> None:
    """Writes `datasets.json` unless it is there."""
    run.enter(JobState.VALIDATING)
    if run.files.exists(ARTIFACT):
        return
    unit = GroupUnit("validate", "validate", tuple(task.name for task in run.spec.tasks), ZeroShotConfig())
    found: dict[str, Any] = {}

    def on_end(work: Work, outcome: Outcome) -> list[Work]:
        if outcome.kind != "done":
            raise StageFailed(outcome.error, outcome.traceback)
        found.update(outcome.value)
        return []

    supervise(run, [ValidateWork(**run.common(), groups=(unit,))], on_end)
    blind = [task["name"] for task in found["tasks"] if not task["num_val"]]
    if run.spec.search is not None and blind:
        raise StageFailed(f"search: {NO_VALIDATION.format(tasks=quoted(blind))}")
    run.check()
    run.files.write_json(ARTIFACT, found)
    unreadable = sum(task["num_unreadable"] for task in found["tasks"])
    images = sum(task["num_train"] + task["num_val"] + task["num_test"] for task in found["tasks"])
    run.event(
        "validated",
        f"{len(found['tasks'])} tasks with {images} images; {unreadable} unreadable.",
        level="warning" if unreadable else "info",
        data={task["name"]: task["num_unreadable"] for task in found["tasks"] if task["num_unreadable"]},
    )


def datasets(run: JobRun) -> dict[str, dict[str, Any]]:
    """What validation found, by task."""
    return {task["name"]: task for task in run.files.read_json(ARTIFACT)["tasks"]}


def fingerprints(run: JobRun) -> dict[str, str]:
    """Task -> fingerprint, which later stages hold the data to."""
    return {name: task["fingerprint"] for name, task in datasets(run).items()}
