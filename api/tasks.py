"""New tasks for a finished job."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from api.context import ControlPlaneOf, JobTextOf, ViewsOf
from service import children, wire

router = APIRouter(prefix="/v1/jobs/{job_id}/tasks", tags=["jobs"])

_NEW_TASKS = {"$ref": "#/components/schemas/NewTasks"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Tasks as in a job description, and a name for the new job; as YAML or JSON, at most 1 MiB.",
        "content": {"application/yaml": {"schema": _NEW_TASKS}, "application/json": {"schema": _NEW_TASKS}},
    }
}


@router.post("", status_code=202, openapi_extra=_BODY, summary="Add tasks to a finished job")
def add(
    job_id: str,
    body: JobTextOf,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> wire.Job:
    """Accepts a job of its own, `parent` this one, over its tasks and the new ones.

    The new tasks are measured at the prompts that the finished job has stored, and join its groups or open new ones.
    Only groups that change are trained; what stays as it is, is taken over.  Groups keep their ids, and the new job
    leaves a bundle of all tasks.  409 for a job that is not finished, that forms no groups (`sharing: alone` or
    `all`), or that left none.

    With an `Idempotency-Key` the same request can be sent again without making a second job.
    """
    job, created = children.add_tasks(
        control_plane.store,
        control_plane.settings,
        job_id,
        body.text,
        json_only=body.json_only,
        idempotency_key=idempotency_key,
    )
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
    return views.job(job)
