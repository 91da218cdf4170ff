"""For machines that watch the service: alive, ready, and numbers for Prometheus.  None of it asks for a key, and none
names a job, a task or a tenant."""

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.context import ControlPlaneOf
from service import wire

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
def livez() -> dict[str, str]:
    """Always 200 while the process answers at all; asks nothing else."""
    return {"status": "alive"}


_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Something is missing.", "model": wire.Readiness}}


@router.get("/readyz", summary="Can it do its work?", responses=_NOT_READY)
def readyz(request: Request, control_plane: ControlPlaneOf, response: Response) -> wire.Readiness:
    """What the service stands on: `true`, or a sentence on what is wrong with it.

    Without Ray the API still takes jobs and answers questions; 503 tells a balancer that new jobs would only wait.
    """
    found = control_plane.ready()
    if found["storage"] is not True:  # which names places, and nobody was asked for a key
        found["storage"] = "The storage cannot be written; the service's log says why."
    if request.app.state.closing.is_set():
        found["serving"] = "The service is about to end."
    good = all(value is True for value in found.values())
    response.status_code = 200 if good else 503
    return wire.Readiness(ready=good, checks=found)


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
def metrics(control_plane: ControlPlaneOf) -> Response:
    """Requests, jobs by state, waits, looks of the coordinator, transactions: docs/reference/metrics.md names all."""
    return Response(generate_latest(control_plane.telemetry.registry), media_type=CONTENT_TYPE_LATEST)
