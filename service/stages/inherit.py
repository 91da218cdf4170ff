"""What a job takes over from the finished job that it goes on from: datasets, signatures, plan, settings, results.

A job with new tasks looks only at those: they are measured at the parent's stored prompts and placed into its groups.
A job without new tasks runs one of the parent's plans again.  A unit of tasks, method and training that the parent has
trained is taken over; everything else trains.  What is taken over is copied, so that the parent's files are not needed
later.
"""

from dataclasses import replace

import numpy as np

from grouping.given import plan_of_groups
from grouping.newcomers import place
from grouping.plan import Plan
from service.artifacts import plan_path
from service.measurements import DATASETS, SIGNATURES, read_gradients, read_measurement, task_costs
from service.reading import quoted
from service.stages.measure import measure_tasks
from service.stages.parent import Parent, new_tasks
from service.stages.run import JobRun, StageFailed
from service.stages.units import TrainUnits
from workers.arrays import read_arrays, write_arrays
from workers.launching.work import GroupUnit
from workers.seals import Damaged
from workers.storage import write
from workers.training.config import LARGEST_SIGNATURES
from workers.training.results import LEARNED, TEXT_FEATURES, GroupResult, read_trained

NEWCOMERS = "profile/newcomers"
_SEARCH = "search.json"


def inherit_signatures(run: JobRun, parent: Parent) -> None:
    """Writes `profile/signatures.npz` unless it is there: the parent's, and those of the new tasks at its prompts.

    StageFailed for a new task with too few images to be measured like the others.
    """
    target = run.files.path(SIGNATURES)
    if run.has(SIGNATURES):
        return
    stored, new = parent.file(SIGNATURES), new_tasks(run, parent)
    if not new:
        write(target, stored.read_bytes())
        return
    known = read_arrays(stored)
    num = known["gradients"].shape[1]
    sizes = {task["name"]: task["num_train"] for task in run.files.read_json(DATASETS)["tasks"]}
    if few := [task for task in new if sizes[task] < num]:
        raise StageFailed(
            f"Task {few[0]!r} has {sizes[few[0]]} training images, and the tasks of {parent.run.job} were measured on "
            f"{num} disjoint sets of images each. Give it at least {num}."
        )
    size = known["gradients"].nbytes // known["gradients"].shape[2] * len(sizes)
    if size > LARGEST_SIGNATURES:
        raise StageFailed(
            f"The signatures of {len(sizes)} tasks take {size / 1024**3:.1f} GiB; at most "
            f"{LARGEST_SIGNATURES // 1024**3} GiB are kept. Add fewer tasks, or submit a job with fewer "
            "profile.snapshots or profile.microbatches."
        )
    late = measure_tasks(run, new, microbatches=num, stored=stored, folder=NEWCOMERS)
    found = read_arrays(late)
    for name in ("gradients", "losses", "counts"):
        known[name] = np.concatenate([known[name], found[name]], axis=2)
    for name in ("task_names", "text_centroids", "image_centroids"):
        known[name] = np.concatenate([known[name], found[name]])
    run.check()
    write_arrays(target, known, "signatures")
    run.event("measured", f"{quoted(new)}: measured at the prompts that {parent.run.job} stored.")


def inherited_plan(run: JobRun, parent: Parent) -> Plan:
    """The parent's plan as it is, or with the new tasks placed into its groups."""
    plan = Plan.model_validate_json(parent.text(plan_path(parent.plan)))
    new = new_tasks(run, parent)
    if not new:
        return plan
    measurement, gradients = read_measurement(run.files), read_gradients(run.files)
    costs = task_costs(run.files, run.spec.training.batch_size)
    config = run.spec.grouping
    rows_known = [row for row, name in enumerate(measurement.task_names) if name not in new]
    rows_new = [measurement.task_names.index(name) for name in new]
    groups = {group.id: list(group.tasks) for group in plan.groups}
    placements = place(
        gradients[:, :, rows_known],
        [measurement.task_names[row] for row in rows_known],
        groups,
        gradients[:, :, rows_new],
        new,
        config,
        costs=costs,
        verdict=None if plan.verdict is None else plan.verdict.kind,
    )
    for placed in placements:
        groups.setdefault(placed.group, []).append(placed.task)
    summary = " ".join(placed.sentence for placed in placements)
    return plan_of_groups(measurement, groups, config, origin="joined", summary=summary, costs=costs)


def inherit_search(run: JobRun, parent: Parent, plan: Plan) -> None:
    """Takes over the settings that the parent's search found, where it ended; a group has those of the same tasks, or
    else those of the same id, and new groups the job's own."""
    if run.files.exists(_SEARCH) or not parent.run.files.exists(_SEARCH):
        return
    found = parent.run.files.read_json(_SEARCH)
    if found["scope"] == "group":
        searches, trained = found["searches"], _trained_plan(parent)
        of_tasks = {frozenset(group.tasks): group.id for group in trained.groups} if trained else {}
        chosen = {group.id: of_tasks.get(frozenset(group.tasks), group.id) for group in plan.groups}
        found["searches"] = {group: searches[old] for group, old in chosen.items() if old in searches}
    run.check()
    run.files.write_json(_SEARCH, found)
    run.event("search_taken_over", f"Trains with the settings that the search of {parent.run.job} found.")


def take_over(run: JobRun, parent: Parent, units: TrainUnits, parents: TrainUnits) -> None:
    """Copies the parent's finished results of units with the same tasks, method and training, under their ids here."""
    theirs = {_key(unit, parents): unit for unit in parents.units}
    taken: list[str] = []
    for unit in units.units:
        directory = run.files.path(f"groups/{unit.id}")
        same = theirs.get(_key(unit, units))
        if same is None or GroupResult.read(directory) is not None:
            continue
        run.check()
        source = parent.run.files.path(f"groups/{same.id}")
        try:
            result = GroupResult.read(source)
        except Damaged as error:
            run.event("result_damaged", f"{unit.id} is trained again: {error}", level="warning")
            continue
        if result is None:
            continue
        renamed = {task: replace(found, group=unit.id) for task, found in result.results.items()}
        files = read_trained(source)
        replace(result, group=unit.id, results=renamed).write(directory, files[LEARNED], files[TEXT_FEATURES])
        taken.append(unit.id)
    if taken:
        run.event(
            "taken_over",
            f"{len(taken)} of {len(units.units)} group(s) and baselines are those of {parent.run.job}: "
            f"{', '.join(taken)}.{_other_steps(units, parents)}",
            data={"parent": parent.run.job, "groups": taken},
        )


def _key(unit: GroupUnit, units: TrainUnits) -> tuple:
    return unit.tasks, unit.method, units.trainings[unit.id]


def _other_steps(units: TrainUnits, parents: TrainUnits) -> str:
    now, then = (max((unit.num_steps for unit in each.units), default=0) for each in (units, parents))
    if now == then:
        return ""
    return f" They took {then} steps; what trains now takes {now}, since the largest task has more images than before."


def _trained_plan(parent: Parent) -> Plan | None:
    number = next((plan.number for plan in parent.run.store.plans(parent.run.job) if plan.approved), None)
    if number is None:
        return None
    return Plan.model_validate_json(parent.text(plan_path(number)))
