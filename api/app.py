"""The HTTP application over a control plane.  It starts and stops nothing: whoever made the control plane does."""

import threading
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Depends, FastAPI

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
from api.limits import RequestLimiter
from api.openapi import PROBLEMS, describe, operation_id
from api.pages.router import router as pages
from api.sessions import Sessions
from api.tails import Tails
from api.watch import Watch
from service.control_plane import ControlPlane
from service.views import Views

_ABOUT = """Train many CLIP classification tasks at once: Cohort finds out which tasks help each other and trains them
together, with CLIP frozen.

Submit a job, watch its events, read its groups and the reasons for them, fetch its bundle.
Errors are `application/problem+json`: what was given, what was expected, what to do."""


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
        generate_unique_id_function=operation_id,
        # does nothing until OTEL_EXPORTER_OTLP_ENDPOINT says where to (docs/reference/logs.md)
        telemetry={"auto_configure": True, "exclude": _is_not_traced},
    )
    app.state.control_plane = control_plane
    app.state.views = Views(control_plane.store, control_plane.settings)
    app.state.tails = Tails(control_plane.store, app.state.views, control_plane.settings.poll_seconds)
    app.state.sessions = Sessions(control_plane.store, control_plane.settings)
    app.state.limiter = RequestLimiter(control_plane.settings.requests_per_minute)
    app.add_middleware(Audit, store=control_plane.store)
    is_file = control_plane.store.dialect == "sqlite"
    app.state.readers = None if is_file else ThreadPoolExecutor(4, thread_name_prefix="reader")  # see context.asked
    app.state.closing = threading.Event()  # set: open streams end, so that the server can
    problems.install(app)
    app.add_middleware(Watch, telemetry=control_plane.telemetry)
    app.include_router(health.router)
    for room in (jobs, estimates, tasks, plans, results, events, artifacts):
        app.include_router(room.router, dependencies=[Depends(auth.guard)], responses=PROBLEMS)
    for room in (keys, links, dashboard):  # these look after themselves
        app.include_router(room.router, responses=PROBLEMS)
    app.include_router(quotas.router, responses=PROBLEMS)
    app.include_router(pages)
    describe(app)
    return app
