"""Jobs: submit, validate, list, look at, and steer them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response

from api.auth import PrincipalOf
from api.context import ControlPlaneOf, JobTextOf, ViewsOf, asked
from service import children, submission, wire
from service.message import Message
from service.reading import read_spec
from service.records import Job, Purpose
from service.roles import Role
from service.states import Desired, JobState
from service.views import Views
from service.wire_queue import NewPriority

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_JOB_SCHEMA = {"$ref": "#/components/schemas/JobSpec"}
JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A job description, as YAML or as JSON; at most 1 MiB.",
        "content": {"application/yaml": {"schema": _JOB_SCHEMA}, "application/json": {"schema": _JOB_SCHEMA}},
    }
}
_CLONE_SCHEMA = {"$ref": "#/components/schemas/Clone"}
_CLONE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "What is different, `{}` for nothing; as JSON or YAML, at most 1 MiB.",
        "content": {
            "application/json": {"schema": _CLONE_SCHEMA},
            "application/yaml": {"schema": _CLONE_SCHEMA},
        },
    }
}
_PRIORITY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewPriority"}}},
    }
}


@router.post("", status_code=202, openapi_extra=JOB_BODY, summary="Submit a job")
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
    accepted = submission.submit(
        store,
        settings,
        body.text,
        tenant=principal.tenant,
        json_only=body.json_only,
        idempotency_key=idempotency_key,
    )
    return _accepted(accepted, response, views)


@router.post("/validate", openapi_extra=JOB_BODY, summary="Check a job without submitting it")
def validate(body: JobTextOf, principal: PrincipalOf, control_plane: ControlPlaneOf) -> wire.Validation:
    """Names every fault of the description, and what a quick look at each task's source finds.

    The status is 200 either way; `valid` says which.
    """
    return submission.validate(control_plane.settings, body.text, tenant=principal.tenant, json_only=body.json_only)


@router.get("", response_model=wire.JobPage, summary="List jobs")
async def list_jobs(
    request: Request,
    principal: PrincipalOf,
    views: ViewsOf,
    tenant: Annotated[str | None, Query(max_length=64, description="Only this tenant's jobs, for operators.")] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    archived: Annotated[bool, Query(description="The archived jobs instead.")] = False,
    deleted: Annotated[bool, Query(description="The deleted jobs that can still be restored, instead.")] = False,
    purpose: Annotated[Purpose, Query(description="`estimate`: the dry runs instead.")] = "train",
    after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Jobs per page.")] = 50,
) -> Response:
    """Jobs, newest first: those of the key's tenant; for operators and admins those of all."""
    where = {
        "tenant": tenant if principal.may(Role.OPERATOR) else principal.tenant,
        "state": state,
        "archived": archived,
        "deleted": deleted,
        "purpose": purpose,
        "after": after,
        "limit": limit,
    }
    return await asked(request, lambda: _json(views.jobs(**where)))


@router.get("/{job_id}", response_model=wire.Job, summary="Look at a job")
async def get_job(job_id: str, request: Request, views: ViewsOf) -> Response:
    """One job: its description, its state and why, its plan."""
    return await asked(request, lambda: _json(views.job(job_id)))


@router.patch("/{job_id}", openapi_extra=_PRIORITY, summary="Let a job start earlier or later")
def set_priority(job_id: str, body: JobTextOf, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Changes its priority.  Repeatable; 409 once the job is finished, and above what its tenant may have."""
    return views.job(control_plane.store.set_priority(job_id, read_spec(NewPriority, body.text).priority))


@router.post("/{job_id}/cancel", status_code=202, summary="Cancel a job")
def cancel(
    job_id: str,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    mode: Annotated[
        Literal["graceful", "now"], Query(description="`now`: what runs is ended without a last checkpoint.")
    ] = "graceful",
) -> wire.Job:
    """Asks the job to stop for good; its checkpoints are kept, and `retry` goes on from them.

    Repeatable, and a job that is being cancelled can be hurried with `mode=now`; 409 once it has finished otherwise.
    """
    return views.job(control_plane.store.set_desired(job_id, Desired.CANCEL, at_once=mode == "now"))


@router.post("/{job_id}/pause", status_code=202, summary="Pause a job")
def pause(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Asks the job to write checkpoints and give its devices back.  Repeatable."""
    return views.job(control_plane.store.set_desired(job_id, Desired.PAUSE))


@router.post("/{job_id}/resume", status_code=202, summary="Resume a job")
def resume(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Lets a paused job go on from its checkpoints.  Repeatable."""
    return views.job(control_plane.store.set_desired(job_id, Desired.RUN))


@router.post("/{job_id}/retry", status_code=202, summary="Retry what is missing of a job")
def retry(
    job_id: str,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> wire.Job:
    """Accepts a job of its own, `retry_of` this one, that takes over all that it has finished and trains the rest.

    For jobs that FAILED, were CANCELLED or PARTIALLY_SUCCEEDED: data that was looked at, the shared prompt, plans, and
    groups are taken over, and groups with a checkpoint go on from it.  Repeatable: while a retry of the job is under
    way, the answer is that one.  Of a retry that ended before it had taken anything over, what it retried is retried.
    """
    store, settings = control_plane.store, control_plane.settings
    return _accepted(children.retry(store, settings, job_id, idempotency_key=idempotency_key), response, views)


@router.post("/{job_id}/clone", status_code=202, openapi_extra=_CLONE, summary="Submit a job like this one")
def clone(
    job_id: str,
    body: JobTextOf,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> wire.Job:
    """Accepts a job with the same description but what is overridden.  It begins anew and takes nothing over.

    With an `Idempotency-Key` the same request can be sent again without making a second job.
    """
    store, settings = control_plane.store, control_plane.settings
    accepted = submission.clone(
        store, settings, job_id, body.text, json_only=body.json_only, idempotency_key=idempotency_key
    )
    return _accepted(accepted, response, views)


@router.post("/{job_id}/archive", summary="Put a finished job away")
def archive(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Takes the job out of the listing; it is kept however old it gets.  Repeatable; 409 until it has finished."""
    return views.job(control_plane.store.archive(job_id))


@router.post("/{job_id}/unarchive", summary="Take a job out of the archive")
def unarchive(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Puts the job back into the listing.  Repeatable."""
    return views.job(control_plane.store.unarchive(job_id))


@router.delete("/{job_id}", summary="Delete a finished job")
def delete(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Takes the job out of every listing; at `purge_at` its files go, and then it is not there any more.

    Until then it can be looked at and restored.  It stays longer while a job that goes on from it has not ended.
    Repeatable; 409 until it has finished.
    """
    return views.job(control_plane.store.delete(job_id))


@router.post("/{job_id}/restore", summary="Restore a deleted job")
def restore(job_id: str, control_plane: ControlPlaneOf, views: ViewsOf) -> wire.Job:
    """Takes a deletion back.  Repeatable; 404 once the job is gone."""
    return views.job(control_plane.store.restore(job_id))


def _accepted(accepted: tuple[Job, bool], response: Response, views: Views) -> wire.Job:
    """An accepted job, where it is to be found, and whether it had been accepted before."""
    job, created = accepted
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
    return views.job(job)


def _json(message: Message) -> Response:
    """The two answers that are asked for most: the framework would check each once more, in another thread."""
    return Response(message.model_dump_json(), media_type="application/json")
