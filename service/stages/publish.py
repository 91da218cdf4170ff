"""Stage `publish`: the bundle, its report, and last of all its manifest, whose presence means complete."""

import json
import platform
from importlib.metadata import version

from service.stages.group import ARTIFACT as PLAN
from service.stages.run import JobRun
from service.stages.train import Trained, result_rows
from service.stages.validate import datasets
from service.states import JobState
from workers.bundle import MANIFEST, BundleGroup, BundleTask, write_bundle

FOLDER = "bundle"
DISTRIBUTIONS = ("torch", "open_clip_torch", "numpy", "safetensors")


def publish(run: JobRun, trained: Trained) -> tuple[JobState, str | None]:
    """Writes the bundle of every group that finished; the state that the job ends in, and why it is not all."""
    run.enter(JobState.PUBLISHING)
    found = datasets(run)
    served = {task: group for task, group in trained.units.planned.items() if group in trained.results}
    units = {unit.id: unit for unit in trained.units.units}
    # of an attempt that died right after it: what is written now may differ, and until it is whole there is no bundle
    run.files.path(f"{FOLDER}/{MANIFEST}").unlink(missing_ok=True)
    write_bundle(
        run.files.path(FOLDER),
        job=run.job,
        backbone=run.spec.backbone,
        tasks=[
            BundleTask(
                task, tuple(found[task]["class_names"]), found[task]["template"], group, found[task]["fingerprint"]
            )
            for task, group in served.items()
        ],
        groups=[
            BundleGroup(id, units[id].tasks, units[id].method, run.files.path(f"groups/{id}"))
            for id in dict.fromkeys(served.values())
        ],
        documents={
            "spec.json": run.spec.model_dump_json(indent=1),
            "plan.json": run.files.read_text(PLAN),
            "datasets.json": json.dumps(found, indent=1),
            "metrics.json": json.dumps(result_rows(trained), indent=1),
        },
        versions={"python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS}},
    )
    run.check()
    if not trained.failures:
        return JobState.SUCCEEDED, None
    reasons = "; ".join(f"{group}: {reason}" for group, reason in trained.failures.items())
    return JobState.PARTIALLY_SUCCEEDED, f"{len(trained.failures)} of {len(units)} groups failed. {reasons}"
