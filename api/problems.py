"""Every error as problem+json (RFC 9457), by one table from class to status.

The service's own messages already say what was given, what was expected and what to do; this file only dresses them.
"""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.watch import HEADER
from service import errors
from service.artifacts import storage_error
from service.wire import Fault, Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class RequestError(Exception):
    """A request that is wrong as HTTP, before the service hears of it."""

    status = 400
    headers: Mapping[str, str] = MappingProxyType({})


class Unauthorized(RequestError):
    """No key, or one that is not known."""

    status = 401

    def __init__(self, message: str, *, challenge: str = 'Bearer realm="cohort"') -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": challenge}


class BadQuery(RequestError):
    """A parameter that is passed on to nobody."""

    status = 422


class ForeignOrigin(RequestError):
    """A service without keys answers only what comes from its own machine."""

    status = 403


class Forbidden(RequestError):
    """The key is good, but its role may not do this."""

    status = 403


class TooManyRequests(RequestError):
    """The key has had its requests of this minute."""

    status = 429

    def __init__(self, message: str, *, seconds: int) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(seconds)}


class BodyTooLarge(RequestError):
    """The body is longer than a job description can be."""

    status = 413
    headers = MappingProxyType({"Connection": "close"})


class UnsupportedBody(RequestError):
    """The body is announced as something that is no job description."""

    status = 415
    headers = MappingProxyType({"Accept-Post": "application/yaml, application/json"})


class RangeRefused(RequestError):
    """The file has no such bytes."""

    status = 416

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.headers = {"Content-Range": f"bytes */{size}"}


STATUS: dict[type[Exception], int] = {
    errors.SpecError: 422,
    errors.BadCursor: 422,
    errors.IdempotencyConflict: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.StorageUnavailable: 503,
    errors.ArtifactDamaged: 500,
    errors.UnreadableSpec: 500,
    errors.RayUnavailable: 503,
    errors.DatabaseUnavailable: 503,
    errors.ServiceRunning: 503,
    errors.HeadFailed: 503,
    errors.CohortError: 422,
}
"""The nearest class of an error decides."""


def status_of(error: Exception) -> int:
    """The status of an error: its own, if it is one of HTTP's, else the table's."""
    if isinstance(error, RequestError):
        return error.status
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem."""
    app.add_exception_handler(RequestError, _told)
    app.add_exception_handler(errors.CohortError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OSError, _unexpected)
    app.add_exception_handler(Exception, _unexpected)


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    faults: list[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response.  `kind` is its lasting name; left out, the status speaks for itself."""
    phrase = HTTPStatus(status).phrase
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower() if kind else ""
    content = Problem(
        type=f"urn:cohort:problem:{words.replace(' ', '-')}" if kind else "about:blank",
        title=words.capitalize() if kind else phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
        errors=faults or [],
    ).model_dump()
    if status == 503:
        headers = {"Retry-After": "2", **(headers or {})}
    return JSONResponse(content, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def _told(request: Request, error: Exception) -> JSONResponse:
    faults = None
    if isinstance(error, errors.SpecError):
        faults = [Fault(path=path, problem=text) for path, text in error.problems]
    headers = error.headers if isinstance(error, RequestError) else None
    return problem(request, status_of(error), str(error), kind=type(error).__name__, faults=faults, headers=headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A parameter of the wrong shape."""
    assert isinstance(error, RequestValidationError)
    faults = []
    for fault in error.errors():
        place, *rest = fault["loc"]
        given = "nothing" if fault["type"] == "missing" else repr(fault["input"])[:80]
        name = ".".join(map(str, rest)) or str(place)
        faults.append(Fault(path=name, problem=f"{place} {name!r}: given {given}; expected: {fault['msg']}."))
    detail = " ".join(fault.problem for fault in faults)
    return problem(request, 422, f"{detail} /docs describes this route.", kind="RequestInvalid", faults=faults)


def _http(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: unknown paths, methods that a path does not have."""
    assert isinstance(error, HTTPException)
    path, allowed = request.url.path, (error.headers or {}).get("Allow", "other methods")
    details = {
        404: f"There is nothing at {path!r:.200}. /docs lists the routes.",
        405: f"{request.method} is not possible at {path!r:.200}; {allowed} is.",
    }
    return problem(request, error.status_code, details.get(error.status_code, error.detail), headers=error.headers)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of the storage's or of ours: the log has it, the user is told no internals."""
    request_id = getattr(request.state, "request_id", "")
    route = getattr(request.scope.get("route"), "path", "unknown")
    log.error("%s %s failed", request.method, route, exc_info=error, extra={"request_id": request_id})
    if (told := storage_error(error)) is not None:
        return _told(request, told)
    detail = (
        f"The service made an error it did not expect; its log has the details under the request id {request_id}. "
        "Try again, then report it with this id."
    )
    return problem(request, 500, detail, kind="InternalError", headers={HEADER: request_id})
