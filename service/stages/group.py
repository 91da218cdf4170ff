"""Stage `group`: signatures become a plan, the plan is reviewed, and waits for approval where the user wants to see it.

Planning and reviewing take from a second to a minute, and the driver keeps looking at its wish meanwhile.
"""

from grouping.given import plan_of_groups
from grouping.measurement import Measurement
from grouping.outline import PlanOutline
from grouping.plan import Plan, plan_from, trivial_plan
from grouping.review import Review, review
from service.artifacts import plan_path, review_path
from service.measurements import read_gradients, read_measurement, task_costs
from service.stages.arbitrate import add_arbitrated
from service.stages.aside import aside
from service.stages.inherit import inherited_plan
from service.stages.parent import parent_of
from service.stages.run import Interrupted, JobRun
from service.states import JobState
from workers import faults


def group(run: JobRun) -> None:
    """Makes the job's own plan unless there is one; ends the attempt if no plan is approved yet."""
    run.enter(JobState.GROUPING)
    if all(plan.attempt is None for plan in run.store.plans(run.job)):  # what people asked for is beside it
        _propose(run)
    _restore(run)
    review_plans(run)  # before the tests of `arbitrate`, which take their time
    _arbitrate(run)
    review_plans(run)
    if approved_plan(run) is None:
        raise Interrupted(JobState.AWAITING_APPROVAL, "the plan waits for approval")


def review_plans(run: JobRun) -> None:
    """Reviews the plans that drivers of the job made, and the one that trains; what has a review keeps it.

    A job that measured nothing has no reviews.
    """
    if run.spec.trivial_sharing is not None:
        return
    for plan in run.store.plans(run.job):
        if (plan.attempt is not None or plan.approved) and not run.has(review_path(plan.number)):
            found = aside(run, lambda number=plan.number: _review(run, number))
            faults.point("driver.review.writes")
            run.files.write_text(review_path(plan.number), found.model_dump_json(indent=1))
            faults.point("driver.review.written")
            if found.confidence is not None:
                run.event(
                    "reviewed",
                    f"Plan {plan.number}: {found.confidence.sentence}",
                    data={"plan": plan.number, "word": found.confidence.word},
                )


def approved_plan(run: JobRun) -> int | None:
    """The number of the plan that trains."""
    return next((plan.number for plan in run.store.plans(run.job) if plan.approved), None)


def read_plan(run: JobRun) -> Plan:
    """The plan that trains."""
    number = approved_plan(run)
    assert number is not None, "the stage `group` ends the attempt where no plan is approved"
    return Plan.model_validate_json(run.files.read_text(plan_path(number)))


def read_review(run: JobRun) -> Review | None:
    """The review of the plan that trains; None for a job that measured nothing."""
    number = approved_plan(run)
    if number is None or not run.has(review_path(number)):
        return None
    return Review.model_validate_json(run.files.read_text(review_path(number)))


def costs(run: JobRun) -> dict[str, float]:
    """Task -> its training images in one step, which is what `max_group_cost` counts."""
    return task_costs(run.files, run.spec.training.batch_size)


def measurement(run: JobRun) -> Measurement:
    """What is kept of the job's signatures for planning; made once."""
    return read_measurement(run.files)


def _propose(run: JobRun) -> None:
    """Adds the plan that the signatures speak for, or that the job's sharing is, or that the job goes on with."""
    sharing, parent = run.spec.trivial_sharing, parent_of(run)
    if parent is not None:
        plan = aside(run, lambda: inherited_plan(run, parent))
    elif sharing is not None:
        plan = trivial_plan([task.name for task in run.spec.tasks], sharing)
    else:
        plan = aside(run, lambda: plan_from(measurement(run), run.spec.grouping, costs=costs(run)))
    run.check()
    config = run.spec.grouping
    _tell(run, run.add_plan(plan, approved=not config.approve and not config.arbitrate), plan)


def _arbitrate(run: JobRun) -> None:
    """Puts the job's own plan to the test where the user asks for it and has approved none in the meantime."""
    plans = [plan for plan in run.store.plans(run.job) if plan.attempt is not None]
    is_done = any(plan.outline.origin == "arbitrated" for plan in plans)
    if run.spec.grouping.arbitrate and not is_done and approved_plan(run) is None:
        tested = Plan.model_validate_json(run.files.read_text(plan_path(plans[0].number)))
        _tell(run, *add_arbitrated(run, tested))


def _tell(run: JobRun, number: int, plan: Plan) -> None:
    groups = "; ".join(f"{group.id}: {', '.join(group.tasks)}" for group in plan.groups)
    run.event(
        "planned",
        f"Plan {number}: {len(plan.groups)} group(s). {groups}",
        data={"plan": number, "groups": {g.id: g.tasks for g in plan.groups}},
    )


def _restore(run: JobRun) -> None:
    """Writes plans again whose files are gone; their groups are those that the store knows."""
    for row in run.store.plans(run.job):
        if not run.has(plan_path(row.number)):
            outline = row.outline
            plan = aside(run, lambda outline=outline: _again(run, outline))
            run.files.write_text(plan_path(row.number), plan.model_dump_json(indent=1))


def _again(run: JobRun, outline: PlanOutline) -> Plan:
    if outline.origin == "alone" or outline.origin == "all":
        return trivial_plan([task.name for task in run.spec.tasks], outline.origin)
    found = plan_of_groups(
        measurement(run), outline.groups, outline.settings, origin=outline.origin, summary="", costs=costs(run)
    )
    return found.model_copy(update={"summary": outline.summary, "solver": outline.solver})


def _review(run: JobRun, number: int) -> Review:
    plan = Plan.model_validate_json(run.files.read_text(plan_path(number)))
    return review(read_gradients(run.files), measurement(run), plan, costs=costs(run))
