"""Plans: ask for others than the job's own, look at them, compare, approve, run again."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from api.context import ControlPlaneOf, JobTextOf, ViewsOf
from service import wire, wire_plans

router = APIRouter(prefix="/v1/jobs/{job_id}/plans", tags=["plans"])

_NEW_PLAN = {"$ref": "#/components/schemas/NewPlan"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Settings to change, groups to take as they are, or both; as JSON or YAML, at most 1 MiB.",
        "content": {
            "application/json": {"schema": _NEW_PLAN},
            "application/yaml": {"schema": _NEW_PLAN},
        },
    }
}
Number = Annotated[int, Path(ge=0, lt=2**31, description="The plan's number, from 0.")]


@router.get("", summary="List the plans")
def plans(job_id: str, control_plane: ControlPlaneOf) -> wire_plans.PlanList:
    """The job's own plans and those that were asked for, in short, the newest last."""
    return control_plane.planner.plans(job_id)


@router.post("", status_code=201, openapi_extra=_BODY, summary="Ask for another plan")
def add(job_id: str, body: JobTextOf, control_plane: ControlPlaneOf, response: Response) -> wire_plans.PlanDetail:
    """Makes a plan from the signatures that the job has, with other settings or of groups that are given.

    Nothing trains, and the job goes on as it is; `approve` or `run` the plan to use it.  Groups keep the ids that they
    have in the plan that trains.  The review (confidence, second opinion) follows: look at the plan again for it.  409
    for a job that has no signatures (yet) or needs none.
    """
    plan = control_plane.planner.add(job_id, body.text, json_only=body.json_only)
    response.headers["Location"] = f"/v1/jobs/{job_id}/plans/{plan.number}"
    return plan


@router.get("/compare", summary="Compare two plans")
def compare(
    job_id: str,
    control_plane: ControlPlaneOf,
    first: Annotated[int, Query(ge=0, lt=2**31, description="A plan's number.")],
    second: Annotated[int, Query(ge=0, lt=2**31, description="Another plan's number.")],
) -> wire_plans.PlanComparison:
    """Who changes groups from the first plan to the second, and what both are worth by the first one's objective."""
    return control_plane.planner.compare(job_id, first, second)


@router.get("/{number}", summary="Look at a plan")
def plan(job_id: str, number: Number, control_plane: ControlPlaneOf) -> wire_plans.PlanDetail:
    """One plan with every reason and matrix, and its review: how firm it is, and what another solver would have done.

    The review is null while it is worked out; a look at a plan without one has it worked out.
    """
    return control_plane.planner.plan(job_id, number)


@router.post("/{number}/approve", status_code=202, summary="Approve a plan")
def approve(job_id: str, number: Number, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Lets this plan be trained, and no other.  Repeatable; 409 once groups train, and once the job is finished."""
    return views.job(control_plane.store.approve_plan(job_id, number))


@router.post("/{number}/run", status_code=202, summary="Run a plan of a finished job")
def run(
    job_id: str,
    number: Number,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> wire.Job:
    """Accepts a job of its own, `parent` this one, that trains this plan with what the finished job has measured.

    With an `Idempotency-Key` the same request can be sent again without making a second job.
    """
    job, created = control_plane.planner.run(job_id, number, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
    return views.job(job)
