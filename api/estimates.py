"""Dry runs: what a job would take, before anything is spent."""

import time
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request, Response

from api.auth import PrincipalOf
from api.context import ControlPlaneOf, JobTextOf, ViewsOf
from api.jobs import JOB_BODY
from service import submission
from service.control_plane import ControlPlane
from service.estimates import Estimates
from service.states import TERMINAL
from service.views import Views
from service.wire_estimate import Estimate

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_ENDED: dict[int | str, dict[str, Any]] = {200: {"model": Estimate, "description": "The dry run has ended."}}
_Wait = Annotated[float, Query(ge=0, le=300, description="Seconds to wait for its end before the answer.")]


@router.post("/estimate", status_code=202, openapi_extra=JOB_BODY, responses=_ENDED, summary="Estimate a job")
async def estimate(
    body: JobTextOf,
    principal: PrincipalOf,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    request: Request,
    response: Response,
    wait: _Wait = 0.0,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Estimate:
    """Accepts a dry run of a job: a sample of its images is read, and a few steps of its profile and of its passes are
    really trained, on the devices that the job would have.

    It tells whether the job fits into memory, how fast it goes, how long it will take, how large its bundle gets, and
    which images cannot be read.  It waits for its turn and counts in quotas like a job, is cancelled like one, and is
    kept for a day after its end.  Nothing else stays of it.
    """

    def submit() -> str:
        job, created = submission.submit(
            control_plane.store,
            control_plane.settings,
            body.text,
            tenant=principal.tenant,
            json_only=body.json_only,
            idempotency_key=idempotency_key,
            purpose="estimate",
        )
        if not created:
            response.headers["Idempotent-Replayed"] = "true"
        return job.id

    job_id = await anyio.to_thread.run_sync(submit)
    response.headers["Location"] = f"/v1/jobs/{job_id}/estimate"
    found = await _read(control_plane, views, request, job_id, wait)
    if found.state in TERMINAL:
        response.status_code = 200
    return found


@router.get("/{job_id}/estimate", summary="Look at an estimate")
async def get_estimate(
    job_id: str, control_plane: ControlPlaneOf, views: ViewsOf, request: Request, wait: _Wait = 0.0
) -> Estimate:
    """Where a dry run stands, and what it found; 404 for a job that trains."""
    return await _read(control_plane, views, request, job_id, wait)


async def _read(control_plane: ControlPlane, views: Views, request: Request, job_id: str, seconds: float) -> Estimate:
    """The estimate, as soon as it has ended, the time is over or this process shuts down."""
    estimates = Estimates(control_plane.store, control_plane.settings, views.files)
    deadline = time.monotonic() + seconds
    while True:
        found = await anyio.to_thread.run_sync(estimates.get, job_id)
        left = deadline - time.monotonic()
        if found.state in TERMINAL or left <= 0 or request.app.state.closing.is_set():
            return found
        await anyio.sleep(min(left, control_plane.settings.poll_seconds))
