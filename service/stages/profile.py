"""Stage `profile`: trains the shared prompt over all tasks and writes every task's signatures, more of them where the
first cannot tell groups from noise.

What brings SciPy and scikit-learn is loaded after the training, so that its first step does not wait for them.
"""

import importlib
from collections.abc import Mapping
from dataclasses import asdict

from service.measurements import SIGNATURES as ARTIFACT
from service.stages.parent import parent_of
from service.stages.run import JobRun
from service.stages.tries import Tries, newest_checkpoint, run_alone
from service.stages.validate import datasets, fingerprints, profiled_method
from service.states import JobState
from workers import faults
from workers.launching.footprint import Footprint, size_of
from workers.launching.work import GroupUnit, ProfileWork, train_unit


def announce(run: JobRun) -> None:
    """Shows the group of a profile that is still to come, whose actor then starts while the data are looked at."""
    if run.spec.trivial_sharing is None and parent_of(run) is None and not run.files.exists(ARTIFACT):
        run.launcher.announce(run.job, run.attempt, (_shared_unit(run),))


def profile(run: JobRun) -> None:
    """Writes `profile/signatures.npz` unless it is there, or the job's sharing needs none; a job that goes on from
    another trains no shared prompt."""
    if run.spec.trivial_sharing is not None:
        return
    run.enter(JobState.PROFILING)
    if (parent := parent_of(run)) is not None:
        importlib.import_module("service.stages.inherit").inherit_signatures(run, parent)
        return
    _train_shared_prompt(run)
    if all(plan.attempt is None for plan in run.store.plans(run.job)):  # the job's own plan was made of what there was
        importlib.import_module("service.stages.measure").measure_more(run)


def _train_shared_prompt(run: JobRun) -> None:
    unit = _shared_unit(run)
    run.put_groups((unit,))
    if run.has(ARTIFACT):  # of an attempt that may have ended before it could say so
        run.update_group(unit.id, state="done", reason=None)
        return

    work = ProfileWork(
        **run.common(),
        groups=(unit,),
        fingerprints=fingerprints(run),
        profile=run.spec.profile,
        training=run.spec.training,
        method=profiled_method(run.spec),
        directory=run.files.path(ARTIFACT).parent,
    )
    said = "The shared prompt could not be trained: "
    found = run_alone(run, work, said=said, come_to=lambda: newest_checkpoint(work.directory))
    faults.point("driver.signatures.written")
    run.update_group(unit.id, state="done", memory=None if found is None else _footprint(run, found["memory"]))
    run.event("profiled", "The shared prompt is trained and every task's signature is recorded.")


def _footprint(run: JobRun, memory: Mapping[str, int]) -> dict[str, int]:
    """What a step of the shared prompt over all tasks took, from which the groups' passes are planned."""
    found, spec = datasets(run), run.spec
    sizes = {name: task["num_train"] for name, task in found.items()}
    classes = {name: len(task["class_names"]) for name, task in found.items()}
    unit = train_unit("shared", "shared", tuple(found), profiled_method(spec), spec.training, sizes, classes)
    return asdict(Footprint(*size_of([unit], Tries(run).microbatches(unit)), **memory))


def _shared_unit(run: JobRun) -> GroupUnit:
    return GroupUnit("shared", "shared", tuple(task.name for task in run.spec.tasks), profiled_method(run.spec))
