"""Writes down who did what: every request that could change something, and every one that was refused for its key."""

import logging

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.limits import RequestLimiter
from service.roles import Principal
from service.store import Store
from service.training_rows import storable

log = logging.getLogger(__name__)

_LOOKING = ("GET", "HEAD", "OPTIONS")
_REFUSED = (401, 403, 429)
REFUSALS_PER_MINUTE = 60
"""That are written of one key, or of one address without a good one: a flood of them shall not fill the disk."""


class Audit:
    """Hears of every request once it is answered; a log that cannot be written stops no request."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app = app
        self._store = store
        self._refusals = RequestLimiter(REFUSALS_PER_MINUTE)

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
            if self._counts(scope, status):
                await anyio.to_thread.run_sync(self._write, scope, status)

    def _counts(self, scope: Scope, status: int) -> bool:
        if status not in _REFUSED:
            return scope["method"] not in _LOOKING
        principal: Principal | None = scope.get("state", {}).get("principal")
        return not self._refusals.seconds_to_wait(f"key {principal.key}" if principal else f"address {_address(scope)}")

    def _write(self, scope: Scope, status: int) -> None:
        principal: Principal | None = scope.get("state", {}).get("principal")
        route = getattr(scope.get("route"), "path", None) or "(no route)"
        try:
            self._store.add_audit(
                tenant=principal.tenant if principal else None,
                key=principal.key if principal else None,
                role=principal.role if principal else None,
                address=_address(scope),
                action=f"{scope['method']} {route}"[:255],
                job_id=storable((scope.get("path_params") or {}).get("job_id", ""))[:32] or None,
                status=status,
            )
        except Exception:
            log.exception("the audit log could not be written")


def _address(scope: Scope) -> str | None:
    return (scope.get("client") or ("",))[0][:64] or None
