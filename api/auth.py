"""Who asks, and what it may: an API key as `Authorization: Bearer ...`, or, with `no_auth`, this machine alone.

A key stands for a tenant and a role (`service.roles`).  Jobs of other tenants are not there for it: they answer 404
like jobs that never were.  Looking takes the role viewer, everything else at least submitter.

For reading, and for nothing else, a browser is also known by its sign-in on the pages (`api.sessions`), or by the key
as the password of HTTP Basic, with any user name, which browsers send along with what other sites make them send.
"""

import base64
import binascii
import ipaddress
from contextlib import suppress
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from api.context import ControlPlaneOf, asked
from api.problems import Forbidden, ForeignOrigin, TooManyRequests, Unauthorized
from service.control_plane import ControlPlane
from service.errors import DatabaseUnavailable, JobNotFound
from service.roles import DEFAULT_TENANT, Principal, Role
from service.settings import Settings

_LOOKING = ("GET", "HEAD", "OPTIONS")
_HOW = "Send `Authorization: Bearer KEY`; `cohort up` prints the key of a local service."
_bearer = HTTPBearer(auto_error=False, description="An API key.", scheme_name="API key")


def is_loopback(host: str) -> bool:
    """Whether the host name or address can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Refuses (ValueError) a service without keys that others could reach."""
    if settings.no_auth and not is_loopback(settings.host):
        raise ValueError(
            f"no_auth with host={settings.host!r}: anybody who reaches this host could run jobs. "
            "Without keys only 127.0.0.1, ::1 and localhost are served: change the host, or drop no_auth."
        )


async def authenticate(
    request: Request,
    control_plane: ControlPlaneOf,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """Whose request it is.  Unauthorized, ForeignOrigin, TooManyRequests."""
    request.state.principal = principal = await _principal(request, control_plane, bearer)
    limit(request, principal.key)
    return principal


def limit(request: Request, key: str | None) -> None:
    """Counts a request that a key answers for.  TooManyRequests."""
    wait = request.app.state.limiter.seconds_to_wait(key or "")
    if wait:
        most = request.app.state.control_plane.settings.requests_per_minute
        raise TooManyRequests(
            f"More than {most} requests within a minute by one key. Wait {wait} s; events can be streamed instead of "
            "asked for.",
            seconds=wait,
        )


PrincipalOf = Annotated[Principal, Depends(authenticate)]


async def guard(request: Request, principal: PrincipalOf, control_plane: ControlPlaneOf) -> None:
    """Lets a request about jobs pass if its key may.  Forbidden; JobNotFound for another tenant's job."""
    job_id = request.path_params.get("job_id")
    look = partial(admit, principal, control_plane, request.method, job_id)
    if job_id is None:  # nothing is asked of the store
        look()
    else:
        await asked(request, look)


def admit(principal: Principal, control_plane: ControlPlane, method: str, job_id: str | None) -> None:
    """What `guard` looks at, of a request whose parts are given."""
    require(principal, Role.VIEWER if method in _LOOKING else Role.SUBMITTER)
    if job_id is not None and not principal.sees(control_plane.store.tenant_of(job_id)):
        raise JobNotFound(f"There is no job {job_id!r:.60}.")


def require(principal: Principal, role: Role) -> None:
    """Forbidden unless the key may what this role may."""
    if not principal.may(role):
        raise Forbidden(
            f"The API key {principal.name!r:.60} has the role {principal.role}; this takes at least {role}. "
            "Ask an admin for a key with that role."
        )


async def operate(principal: PrincipalOf) -> None:
    """Lets operators and admins pass.  Forbidden."""
    require(principal, Role.OPERATOR)


async def administer(principal: PrincipalOf) -> None:
    """Lets admins pass.  Forbidden."""
    require(principal, Role.ADMIN)


async def _principal(
    request: Request, control_plane: ControlPlane, bearer: HTTPAuthorizationCredentials | None
) -> Principal:
    if control_plane.settings.no_auth:
        return own_machine(request)
    key = bearer.credentials if bearer is not None else _basic_password(request)
    if (
        key is None
        and request.method in _LOOKING
        and (session := await asked(request, request.app.state.sessions.read, request)) is not None
    ):
        return session.principal
    if key is None:
        browser = "text/html" in request.headers.get("accept", "")
        challenge = 'Basic realm="Cohort: any name, an API key as password"' if browser else 'Bearer realm="cohort"'
        raise Unauthorized(f"No API key was given. {_HOW}", challenge=challenge)
    info = await asked(request, control_plane.store.check_key, key)
    if info is None:
        raise Unauthorized(f"The API key is unknown, expired or revoked. {_HOW}")
    if control_plane.store.use_is_to_be_noted(info):
        with suppress(DatabaseUnavailable):  # a database whose disk is full can still be read
            await anyio.to_thread.run_sync(control_plane.store.note_use, info)
    return Principal(info.tenant, info.role, info.name, info.prefix)


def _basic_password(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic" or request.method not in ("GET", "HEAD"):
        return None
    try:
        return base64.b64decode(token, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


def own_machine(request: Request) -> Principal:
    """Whoever asks a service without keys.  ForeignOrigin: a page of another site must not reach it, by a name of its
    own or through the browser."""
    origin = request.headers.get("origin")
    hosts = [request.url.hostname or ""] + ([] if origin is None else [urlsplit(origin).hostname or ""])
    if strangers := [host for host in hosts if not is_loopback(host)]:
        raise ForeignOrigin(
            f"The request names the host {strangers[0]!r:.100}; a service without keys answers only 127.0.0.1, ::1 "
            "and localhost. Use one of these, or start it with keys."
        )
    return Principal(DEFAULT_TENANT, Role.ADMIN, "this machine", None)
