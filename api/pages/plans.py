"""The plans of a job: looked at, asked for, compared, approved, run."""

from typing import Annotated, Any

from fastapi import Path, Query, Request, Response

from api.context import ControlPlaneOf
from api.pages.frame import Frame, FrameOf
from api.pages.page import Form, page_router, see
from service.pages.plans import facts_and_reasons, new_plan
from service.report_plan import drawn_reasons, least_sure
from service.states import STAGE_OF

router = page_router()

Number = Annotated[int, Path(ge=0, lt=2**31)]
Asked = Annotated[int, Query(ge=0, lt=2**31)]
_REASONS = 30
_PAST_PLANS = ("search", "train", "publish")


@router.get("/jobs/{job_id}/plans")
def plans(frame: FrameOf, control_plane: ControlPlaneOf) -> Response:
    """Every plan in short, and what can be done with it."""
    found = control_plane.planner.plans(frame.job.id).plans
    return frame.render("plans", plans=found, **_possible(frame), measures=not frame.job.spec.trivial_sharing)


@router.post("/jobs/{job_id}/plans")
def add(job_id: str, request: Request, control_plane: ControlPlaneOf, fields: Form) -> Response:
    """Makes a plan as it is asked for, and shows it."""
    plan = control_plane.planner.add(job_id, new_plan(fields), json_only=True)
    return see(request, f"/jobs/{job_id}/plans/{plan.number}")


@router.get("/jobs/{job_id}/plans/compare")
def compare(frame: FrameOf, control_plane: ControlPlaneOf, first: Asked, second: Asked) -> Response:
    """Two plans side by side, and who changes groups."""
    planner = control_plane.planner
    sides = {plan.number: plan for plan in planner.plans(frame.job.id).plans}
    found = planner.compare(frame.job.id, first, second)
    return frame.render("compare", tab="plans", found=found, sides=[sides[first], sides[second]], **_possible(frame))


@router.get("/jobs/{job_id}/plans/{number}")
def plan(frame: FrameOf, number: Number, control_plane: ControlPlaneOf) -> Response:
    """One plan: its groups and the reasons for them."""
    detail = control_plane.planner.plan(frame.job.id, number)
    facts, reasons = facts_and_reasons(detail)
    place = {task: at for at, task in enumerate(task for tasks in detail.groups.values() for task in tasks)}
    shown = sorted((told.task for told in reasons), key=lambda task: place.get(task, len(place)))[:_REASONS]
    return frame.render(
        "plan",
        tab="plans",
        detail=detail,
        facts=facts,
        unsure=least_sure(reasons),
        reasons=drawn_reasons([told for told in reasons if told.task in set(shown)], shown),
        num_tasks=len(reasons),
        others=[other.number for other in control_plane.planner.plans(frame.job.id).plans if other.number != number],
        **_possible(frame),
    )


@router.post("/jobs/{job_id}/plans/{number}/approve")
def approve(job_id: str, number: Number, request: Request, control_plane: ControlPlaneOf, _: Form) -> Response:
    """Lets this plan be trained."""
    control_plane.store.approve_plan(job_id, number)
    return see(request, f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/plans/{number}/run")
def run(job_id: str, number: Number, request: Request, control_plane: ControlPlaneOf, fields: Form) -> Response:
    """Submits a job that trains this plan of a finished one, and shows it."""
    job, _ = control_plane.planner.run(job_id, number, idempotency_key=fields.get("once"))
    return see(request, f"/jobs/{job.id}")


def _possible(frame: Frame) -> dict[str, Any]:
    """What can be done with a plan of this job now."""
    job, steers = frame.job, frame.steers
    trains = STAGE_OF.get(job.state) in _PAST_PLANS or any(stage in job.stage_times for stage in _PAST_PLANS)
    return {
        "can_approve": steers and not job.is_finished and not trains,
        "can_run": steers and job.is_finished and job.deleted_at is None and not job.spec.trivial_sharing,
    }
