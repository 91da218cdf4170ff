"""For machines that watch the service: alive, ready, and numbers for Prometheus.  None of it asks for a key."""

import time
from collections.abc import Iterator

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import ControlPlaneOf
from service.store import Store

router = APIRouter(tags=["health"])

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


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
def metrics(request: Request) -> Response:
    """Jobs by state; requests and their durations by route."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class JobsByState(Collector):
    """Counts jobs when it is asked, so that a restart changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("cohort_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._store.count_by_state().items():
            family.add_metric([state], count)
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("cohort_jobs", "Jobs by state.", labels=["state"])


class CountRequests:
    """Counts requests by route and times them until the answer begins (a stream's end says nothing about speed)."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter("cohort_http_requests", "Requests.", ["method", "route", "status"], registry=registry)
        self._seconds = Histogram(
            "cohort_http_seconds", "Seconds until the answer begins.", ["route"], buckets=_BUCKETS, registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # the template, not the path: ids in labels would make a time series per job
                route = getattr(scope.get("route"), "path", "unknown")
                self._requests.labels(scope["method"], route, str(message["status"])).inc()
                self._seconds.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, counted)


def install(app: FastAPI, store: Store) -> None:
    """Gives the app a registry of its own: several apps may live in one process."""
    registry = CollectorRegistry()
    registry.register(JobsByState(store))
    app.state.registry = registry
    app.add_middleware(CountRequests, registry=registry)
