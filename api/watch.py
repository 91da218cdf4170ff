"""Looks on as requests are answered: gives each an id, counts and times it, and writes a line about it.

The id is the caller's (`X-Request-Id`) or a new one; it comes back with the answer and stands in every line of the log
that has to do with the request.
"""

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from service.roles import Principal
from service.telemetry import Telemetry

log = logging.getLogger(__name__)

HEADER = "X-Request-Id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOOKING = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_LOOKING, "POST", "PUT", "PATCH", "DELETE")


class Watch:
    """Hears of every request until its answer begins: a stream's end says nothing about speed."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began, answered = time.perf_counter(), False

        async def hear(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                MutableHeaders(scope=message)[HEADER] = request_id
                self._tell(scope, message["status"], time.perf_counter() - began)
            await send(message)

        with bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, hear)
            except Exception:  # answered by whoever is around this
                if not answered:
                    self._tell(scope, 500, time.perf_counter() - began)
                raise

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        # not whatever a stranger sends, nor the path: ids would make a time series per job, and links hold a secret
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "unknown")
        self._telemetry.requests.labels(method, route, str(status)).inc()
        self._telemetry.request_seconds.labels(route).observe(seconds)
        level = logging.WARNING if status >= 500 else logging.DEBUG if method in _LOOKING else logging.INFO
        principal: Principal | None = scope["state"].get("principal")
        who = {"tenant": principal.tenant, "key": principal.key} if principal else {}
        job = (scope.get("path_params") or {}).get("job_id")
        about = who | ({"job": job} if job else {}) | {"seconds": round(seconds, 4)}
        log.log(level, "%s %s %d", method, route, status, extra=about)
