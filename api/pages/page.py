"""What all pages have in common: who looks at them, how they are rendered, how errors look, what a browser may do.

A page is an ordinary route that answers HTML.  Looking is for whoever has signed in; a form that changes something
brings the session's token.  Nothing on a page runs but `static/`, and nothing is styled but by `static/`.
"""

import gzip
import hashlib
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from api.auth import admit, limit, own_machine
from api.context import ControlPlaneOf, body
from api.problems import RequestError, status_of
from service import report_text, scores
from service.artifacts import storage_error
from service.errors import CohortError, SpecError
from service.plan_words import gap_words, signed
from service.reading import MAX_BYTES
from service.report_plan import agreement_grid
from service.roles import Principal

log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",  # no page that shares our origin gets a handle on this one
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_MAX_FORM = 3 * MAX_BYTES + 2**16  # a description, every byte of it escaped
_COMPRESSED_FROM = 1400
STATIC = {"pages.css": "text/css", "pages.js": "text/javascript", "htmx.min.js": "text/javascript"}


class SignInNeeded(RequestError):
    """Nobody is signed in, or not any more."""

    status = 401


def known(request: Request, control_plane: ControlPlaneOf) -> Principal:
    """Who has signed in; on a service without keys, this machine.  SignInNeeded, TooManyRequests."""
    if control_plane.settings.no_auth:
        session_id, principal = "", own_machine(request)
    else:
        session = request.app.state.sessions.read(request)
        if session is None:
            raise SignInNeeded("You are not signed in, or not any more.")
        session_id, principal = session.id, session.principal
    request.state.principal, request.state.session_id = principal, session_id
    limit(request, principal.key)
    return principal


Known = Annotated[Principal, Depends(known)]


def may_be_here(request: Request, principal: Known, control_plane: ControlPlaneOf) -> Principal:
    """Who may see this page's job, and send its forms.  JobNotFound, Forbidden."""
    admit(principal, control_plane, request.method, request.path_params.get("job_id"))
    return principal


Visitor = Annotated[Principal, Depends(may_be_here)]


async def form(request: Request, _: Known) -> dict[str, str]:
    """The fields of a form of ours, the last of every name.  ForeignOrigin for any other's, BodyTooLarge."""
    fields = await fields_of(request)
    request.app.state.sessions.check_form(request, request.state.session_id, fields.pop("csrf", ""))
    return fields


Form = Annotated[dict[str, str], Depends(form)]


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form, whoever sent it."""
    text = await body(request, _MAX_FORM)
    try:
        return dict(parse_qsl(text.decode(), keep_blank_values=True, max_num_fields=20_000))
    except ValueError as error:
        raise SpecError(f"The form cannot be read: {error}. Send it from the page.") from error


def page_router() -> APIRouter:
    """A router of pages for whoever may be there."""
    return APIRouter(route_class=PageRoute, dependencies=[Depends(may_be_here)])


class PageRoute(APIRoute):
    """A route whose errors are pages, too; whoever is not signed in is led to where that is done."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                response = await answer(request)
            except SignInNeeded:
                response = _sign_in(request)
            except Exception as error:
                response = error_page(request, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return _compressed(request, response)

        return answered


def render(request: Request, template: str, *, status: int = 200, **told: Any) -> HTMLResponse:
    """A page, or for htmx the inner part of one."""
    state = request.state
    session_id = getattr(state, "session_id", None)
    text = (
        templates()
        .get_template(template)
        .render(
            request=request,
            principal=getattr(state, "principal", None),
            csrf=None if session_id is None else request.app.state.sessions.token(session_id),
            signs_in=not request.app.state.control_plane.settings.no_auth,
            is_part="hx-request" in request.headers,
            now=datetime.now(UTC),
            status=status,
            **told,
        )
    )
    return HTMLResponse(text, status)


def see(request: Request, place: str) -> Response:
    """Leads the browser on after a form, so that loading the page again sends nothing again."""
    if "hx-request" in request.headers:
        return Response(headers={"HX-Redirect": place})
    return RedirectResponse(place, 303)


def error_page(request: Request, error: Exception) -> HTMLResponse:
    """What the API would say as a problem, as a page."""
    cause = storage_error(error) if isinstance(error, OSError) else error
    faults = []
    if isinstance(cause, RequestValidationError):
        status = 422
        detail = " ".join(f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}." for fault in cause.errors())
    elif isinstance(cause, RequestError | CohortError):
        status, detail = status_of(cause), str(cause)
        faults = list(cause.problems) if isinstance(cause, SpecError) else []
    else:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        status = 500
        detail = "The service made an error it did not expect; its log has the details. Try again, then report it."
    title = HTTPStatus(status).phrase
    page = render(request, "error.html", status=status, title=title, detail=detail, faults=faults)
    page.headers.update(cause.headers if isinstance(cause, RequestError) else {})
    return page


def _sign_in(request: Request) -> Response:
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        # Strict cookies stay away from links of other sites; a page of ours that loads again brings them along
        return HTMLResponse('<!doctype html><meta http-equiv="refresh" content="0"><title>Cohort</title>')
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    place = "/sign-in" + (f"?to={quote(here)}" if request.method == "GET" and here != "/" else "")
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
    return RedirectResponse(place, 303)


def _compressed(request: Request, response: Response) -> Response:
    """Small on the way.  What tells a secret from a compressed size needs a stranger's requests, and those carry no
    cookie."""
    if not isinstance(response, HTMLResponse) or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    if len(response.body) >= _COMPRESSED_FROM:
        response.body = gzip.compress(response.body, 5, mtime=0)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Length"] = str(len(response.body))
    response.headers["Vary"] = "Accept-Encoding"
    return response


@cache
def static(name: str) -> tuple[bytes, bytes, str]:
    """A static file, the same compressed, and a tag that changes with it."""
    content = files("api.pages").joinpath("static", name).read_bytes()
    return content, gzip.compress(content, 9, mtime=0), hashlib.sha256(content).hexdigest()[:12]


@cache
def templates() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("api.pages"), PackageLoader("service")]),
        autoescape=True,  # task, class and job names are strangers' words
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = lambda name: f"/static/{name}?{static(name)[2]}"
    environment.filters |= {
        "percent": report_text.percent,
        "points": scores.points,
        "direction": report_text.direction,
        "duration": report_text.duration,
        "count": report_text.count,
        "number": report_text.number,
        "figure": report_text.figure,
        "metric": scores.title,
        "signed": signed,
        "grid": agreement_grid,
        "proof": gap_words,
        "interval": lambda gain: scores.interval(gain.low, gain.high),
        "bytes": byte_words,
        "time": lambda when: "–" if when is None else f"{when:%d %b %Y %H:%M}",
        "clock": lambda when: f"{when:%d %b %H:%M:%S}",
        "age": age,
    }
    return environment


def byte_words(number: float) -> str:
    """`12 B`, `3.4 kB`, `5.6 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def age(when: datetime) -> str:
    """How long ago."""
    seconds = max(0, (datetime.now(UTC) - when).total_seconds())
    for most, unit, size in ((90, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} d ago"
