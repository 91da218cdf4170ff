"""The HTTP application over a control plane.  It starts and stops nothing: whoever made the control plane does."""

import threading
from collections.abc import MutableMapping
from typing import Any

import anyio
from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from api import (
    artifacts,
    auth,
    dashboard,
    estimates,
    events,
    health,
    jobs,
    keys,
    links,
    plans,
    problems,
    quotas,
    results,
    tasks,
)
from api.audit import Audit
from api.context import READERS
from api.limits import RequestLimiter
from api.pages.router import router as pages
from api.sessions import Sessions
from api.tails import Tails
from api.watch import Watch
from service.children import NewTasks
from service.control_plane import ControlPlane
from service.planning import WHOLE
from service.spec import JobSpec
from service.submission import Clone
from service.views import Views
from service.wire import Problem
from service.wire_keys import NewKey
from service.wire_plans import NewPlan
from service.wire_queue import NewPriority, NewQuota

_ABOUT = """Train many CLIP classification tasks at once: Cohort finds out which tasks help each other and trains them
together, with CLIP frozen.

Submit a job, watch its events, read its groups and the reasons for them, fetch its bundle.
Errors are `application/problem+json`: what was given, what was expected, what to do."""


def _problem(text: str) -> dict[str, Any]:
    """An answer that is a problem."""
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": text, "content": content}


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: _problem(text)
    for status, text in {
        401: "No good API key.",
        403: "The key's role may not do this.",
        404: "No such job, plan or file (yet).",
        409: "The job's state does not allow it.",
        422: "The request is not as it should be.",
        429: "Too many requests by this key.",
        503: "The database or Ray does not answer; try again soon.",
    }.items()
}
_OF_BODIES = {413: "The body is longer than 1 MiB.", 415: "The body is announced as neither YAML nor JSON."}

_KEPT: dict[str, dict[str, Any]] = {
    "plan": {"$ref": "#/components/schemas/WholePlan"},
    "review": {"anyOf": [{"$ref": "#/components/schemas/WholeReview"}, {"type": "null"}]},
}


def _is_not_traced(scope: MutableMapping[str, Any]) -> bool:
    """Probes, and paths that hold a secret."""
    return scope["path"].startswith(("/livez", "/readyz", "/metrics", "/v1/links/"))


def create_app(control_plane: ControlPlane) -> FastAPI:
    """The app.  ValueError for settings that would serve strangers without keys."""
    auth.check_exposure(control_plane.settings)
    app = FastAPI(
        title="Cohort",
        version="1",
        description=_ABOUT,
        separate_input_output_schemas=False,
        # does nothing until OTEL_EXPORTER_OTLP_ENDPOINT says where to (docs/reference/logs.md)
        telemetry={"auto_configure": True, "exclude": _is_not_traced},
    )
    app.state.control_plane = control_plane
    app.state.views = Views(control_plane.store, control_plane.settings)
    app.state.readers = anyio.CapacityLimiter(READERS)
    app.state.tails = Tails(control_plane.store, app.state.views, control_plane.settings.poll_seconds)
    app.state.sessions = Sessions(control_plane.store, control_plane.settings)
    app.state.limiter = RequestLimiter(control_plane.settings.requests_per_minute)
    app.add_middleware(Audit, store=control_plane.store)
    app.state.closing = threading.Event()  # set: open streams end, so that the server can
    problems.install(app)
    app.add_middleware(Watch, telemetry=control_plane.telemetry)
    app.include_router(health.router)
    for room in (jobs, estimates, tasks, plans, results, events, artifacts):
        app.include_router(room.router, dependencies=[Depends(auth.guard)], responses=_PROBLEMS)
    for room in (keys, links, dashboard):  # these look after themselves
        app.include_router(room.router, responses=_PROBLEMS)
    app.include_router(quotas.router, responses=_PROBLEMS)
    app.include_router(pages)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Adds what the framework cannot see: the body that is read by hand, and the shape of problems."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            parts = schema.setdefault("components", {}).setdefault("schemas", {})
            named = [(model, "") for model in (Clone, JobSpec, NewKey, NewPlan, NewTasks, Problem)]
            named += [(model, "") for model in (NewPriority, NewQuota)]
            named += [(model, "Whole") for model in WHOLE]
            for model, prefix in named:
                own = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
                for name, part in {**own.pop("$defs", {}), model.__name__: own}.items():
                    parts[f"{prefix}{name}"] = part
            for operation in (each for path in schema["paths"].values() for each in path.values()):
                for status, text in _OF_BODIES.items() if "requestBody" in operation else ():
                    operation["responses"][str(status)] = _problem(text)
            for name in ("plan", "review"):  # as they are kept: no client has to know every number
                parts["PlanDetail"]["properties"][name] |= _KEPT[name]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi
