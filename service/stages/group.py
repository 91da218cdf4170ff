"""Stage `group`: signatures become a plan, and the plan waits for approval where the user wants to see it first."""

import numpy as np

from grouping.measurement import TaskFacts
from grouping.plan import Plan, make_plan, trivial_plan
from service.stages.profile import ARTIFACT as SIGNATURES
from service.stages.run import Interrupted, JobRun
from service.stages.validate import datasets
from service.states import JobState

ARTIFACT = "plans/0.json"


def group(run: JobRun) -> None:
    """Writes `plans/0.json` unless it is there; ends the attempt if the plan still waits for its approval."""
    run.enter(JobState.GROUPING)
    if not run.files.exists(ARTIFACT):
        plan = _plan(run)
        run.check()
        run.files.write_text(ARTIFACT, plan.model_dump_json(indent=1))
        groups = "; ".join(f"{group.id}: {', '.join(group.tasks)}" for group in plan.groups)
        run.event(
            "planned", f"{len(plan.groups)} group(s). {groups}", data={"groups": {g.id: g.tasks for g in plan.groups}}
        )
    run.put_plan(0, approved=not run.spec.grouping.approve)
    if not run.store.plans(run.job)[-1].approved:
        raise Interrupted(JobState.AWAITING_APPROVAL, "the plan waits for approval")


def read_plan(run: JobRun) -> Plan:
    """The job's plan."""
    return Plan.model_validate_json(run.files.read_text(ARTIFACT))


def _plan(run: JobRun) -> Plan:
    names = [task.name for task in run.spec.tasks]
    sharing = run.spec.trivial_sharing
    if sharing is not None:
        return trivial_plan(names, sharing)
    with np.load(run.files.path(SIGNATURES), allow_pickle=False) as signatures:
        gradients, facts = signatures["gradients"], TaskFacts.of(signatures)
        names = [str(name) for name in signatures["task_names"]]
    costs = {name: min(run.spec.training.batch_size, found["num_train"]) for name, found in datasets(run).items()}
    return make_plan(gradients, names, run.spec.grouping, facts=facts, costs=costs)
