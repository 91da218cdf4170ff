"""For machines that watch the service: alive, ready, and numbers for Prometheus.  None of it asks for a key, and none
names a job, a task or a tenant."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.context import ControlPlaneOf

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
def livez() -> dict[str, str]:
    """Always 200 while the process answers at all; asks nothing else."""
    return {"status": "alive"}


@router.get("/readyz", summary="Can it do its work?", responses={503: {"description": "Something is missing."}})
def readyz(control_plane: ControlPlaneOf) -> JSONResponse:
    """What the service stands on: `true`, or a sentence on what is wrong with it.

    Without Ray the API still takes jobs and answers questions; 503 tells a balancer that new jobs would only wait.
    """
    found = control_plane.ready()
    good = all(value is True for value in found.values())
    return JSONResponse({"ready": good, "checks": found}, status_code=200 if good else 503)


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
def metrics(control_plane: ControlPlaneOf) -> Response:
    """Requests, jobs by state, waits, looks of the coordinator, transactions: docs/reference/metrics.md names all."""
    return Response(generate_latest(control_plane.telemetry.registry), media_type=CONTENT_TYPE_LATEST)
