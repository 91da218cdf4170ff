"""Stage `group`: signatures become a plan, and the plan waits for approval where the user wants to see it first."""

from grouping.measurement import Measurement
from grouping.plan import Plan, plan_from, trivial_plan
from service.artifacts import plan_path
from service.measurements import read_measurement, task_costs
from service.stages.run import Interrupted, JobRun
from service.states import JobState


def group(run: JobRun) -> None:
    """Makes the job's own plan unless there is one; ends the attempt if no plan is approved yet."""
    run.enter(JobState.GROUPING)
    if all(plan.attempt is None for plan in run.store.plans(run.job)):  # what people asked for is beside it
        plan = _plan(run)
        run.check()
        number = run.add_plan(plan, approved=not run.spec.grouping.approve)
        groups = "; ".join(f"{group.id}: {', '.join(group.tasks)}" for group in plan.groups)
        run.event(
            "planned",
            f"Plan {number}: {len(plan.groups)} group(s). {groups}",
            data={"plan": number, "groups": {g.id: g.tasks for g in plan.groups}},
        )
    if approved_plan(run) is None:
        raise Interrupted(JobState.AWAITING_APPROVAL, "the plan waits for approval")


def approved_plan(run: JobRun) -> int | None:
    """The number of the plan that trains."""
    return next((plan.number for plan in run.store.plans(run.job) if plan.approved), None)


def read_plan(run: JobRun) -> Plan:
    """The plan that trains."""
    number = approved_plan(run)
    assert number is not None, "the stage `group` ends the attempt where no plan is approved"
    return Plan.model_validate_json(run.files.read_text(plan_path(number)))


def costs(run: JobRun) -> dict[str, float]:
    """Task -> its training images in one step, which is what `max_group_cost` counts."""
    return task_costs(run.files, run.spec.training.batch_size)


def measurement(run: JobRun) -> Measurement:
    """What is kept of the job's signatures for planning; made once."""
    return read_measurement(run.files)


def _plan(run: JobRun) -> Plan:
    sharing = run.spec.trivial_sharing
    if sharing is not None:
        return trivial_plan([task.name for task in run.spec.tasks], sharing)
    return plan_from(measurement(run), run.spec.grouping, costs=costs(run))
