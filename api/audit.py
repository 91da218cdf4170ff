"""Writes down who did what: every request that could change something, and every one that was refused for its key."""

import logging

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.roles import Principal
from service.store import Store
from service.training_rows import storable

log = logging.getLogger(__name__)

_LOOKING = ("GET", "HEAD", "OPTIONS")
_REFUSED = (401, 403, 429)


class Audit:
    """Hears of every request once it is answered; a log that cannot be written stops no request."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of an answer that never came

        async def hear(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, hear)
        finally:
            if scope["method"] not in _LOOKING or status in _REFUSED:
                await anyio.to_thread.run_sync(self._write, scope, status)

    def _write(self, scope: Scope, status: int) -> None:
        principal: Principal | None = scope.get("state", {}).get("principal")
        route = getattr(scope.get("route"), "path", None) or "(no route)"
        try:
            self._store.add_audit(
                tenant=principal.tenant if principal else None,
                key=principal.key if principal else None,
                role=principal.role if principal else None,
                address=(scope.get("client") or ("",))[0][:64] or None,
                action=f"{scope['method']} {route}"[:255],
                job_id=storable((scope.get("path_params") or {}).get("job_id", ""))[:32] or None,
                status=status,
            )
        except Exception:
            log.exception("the audit log could not be written")
