"""Jobs: submit, validate, list, look at, and steer them."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from api.auth import PrincipalOf
from api.context import ControlPlaneOf, JobTextOf, ViewsOf
from service import submission, wire
from service.roles import Role
from service.states import Desired, JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_JOB_SCHEMA = {"$ref": "#/components/schemas/JobSpec"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A job description, as YAML or as JSON; at most 1 MiB.",
        "content": {"application/yaml": {"schema": _JOB_SCHEMA}, "application/json": {"schema": _JOB_SCHEMA}},
    }
}


@router.post("", status_code=202, openapi_extra=_BODY, summary="Submit a job")
def submit(
    body: JobTextOf,
    principal: PrincipalOf,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> wire.Job:
    """Accepts a job; its tasks' data is looked at when it runs.

    With an `Idempotency-Key` the same request can be sent again without making a second job: the answer is the first
    one's job.  The same key with another body is refused.
    """
    store, settings = control_plane.store, control_plane.settings
    job, created = submission.submit(
        store,
        settings,
        body.text,
        tenant=principal.tenant,
        json_only=body.json_only,
        idempotency_key=idempotency_key,
    )
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
    return views.job(job)


@router.post("/validate", openapi_extra=_BODY, summary="Check a job without submitting it")
def validate(body: JobTextOf, principal: PrincipalOf, control_plane: ControlPlaneOf) -> wire.Validation:
    """Names every fault of the description, and what a quick look at each task's source finds.

    The status is 200 either way; `valid` says which.
    """
    return submission.validate(control_plane.settings, body.text, tenant=principal.tenant, json_only=body.json_only)


@router.get("", summary="List jobs")
def list_jobs(
    principal: PrincipalOf,
    views: ViewsOf,
    tenant: Annotated[str | None, Query(max_length=64, description="Only this tenant's jobs, for operators.")] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Jobs per page.")] = 50,
) -> wire.JobPage:
    """Jobs, newest first: those of the key's tenant; for operators and admins those of all."""
    return views.jobs(
        tenant=tenant if principal.may(Role.OPERATOR) else principal.tenant, state=state, after=after, limit=limit
    )


@router.get("/{job_id}", summary="Look at a job")
def get_job(job_id: str, views: ViewsOf) -> wire.Job:
    """One job: its description, its state and why, its plan."""
    return views.job(job_id)


@router.post("/{job_id}/cancel", status_code=202, summary="Cancel a job")
def cancel(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Asks the job to stop for good.  Repeatable; 409 once the job has finished otherwise."""
    return views.job(control_plane.store.set_desired(job_id, Desired.CANCEL))


@router.post("/{job_id}/pause", status_code=202, summary="Pause a job")
def pause(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Asks the job to write checkpoints and give its devices back.  Repeatable."""
    return views.job(control_plane.store.set_desired(job_id, Desired.PAUSE))


@router.post("/{job_id}/resume", status_code=202, summary="Resume a job")
def resume(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Lets a paused job go on from its checkpoints.  Repeatable."""
    return views.job(control_plane.store.set_desired(job_id, Desired.RUN))
