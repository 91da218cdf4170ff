"""Signing in with an API key and out again, and the files that pages are made with."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from api.context import ControlPlaneOf
from api.pages.page import STATIC, Form, PageRoute, fields_of, render, see, static
from api.sessions import check_same_site
from service.errors import NotFound

router = APIRouter(route_class=PageRoute)
To = Annotated[str, Query(max_length=2000)]


@router.get("/sign-in")
def ask(request: Request, control_plane: ControlPlaneOf, to: To = "/") -> Response:
    """The form that asks for a key."""
    if control_plane.settings.no_auth or request.app.state.sessions.read(request) is not None:
        return see(request, _inside(to))
    return render(request, "sign_in.html", to=_inside(to), problem=None)


@router.post("/sign-in", dependencies=[Depends(check_same_site)])
def sign_in(request: Request, fields: Annotated[dict[str, str], Depends(fields_of)]) -> Response:
    """Takes a key, and keeps who it is in a cookie."""
    to = _inside(fields.get("to", "/"))
    response = see(request, to)
    principal = request.app.state.sessions.begin(fields.get("key", "").strip(), request, response)
    if principal is not None:
        request.state.principal = principal  # for the audit log
        return response
    problem = "This key is unknown, expired or revoked. `cohort up` prints the key of a local service."
    return render(request, "sign_in.html", status=401, to=to, problem=problem)


@router.post("/sign-out")
def sign_out(request: Request, _: Form) -> Response:
    """Forgets who it was."""
    response = see(request, "/sign-in")
    request.app.state.sessions.end(response)
    return response


@router.get("/static/{name}")
def static_file(name: str, request: Request) -> Response:
    """A file that is the same for everybody; its address changes with it, so it may be kept for ever."""
    if name not in STATIC:
        raise NotFound(f"There is nothing at {request.url.path!r:.200}.")
    plain, small, _ = static(name)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(small, media_type=STATIC[name], headers=headers | {"Content-Encoding": "gzip"})
    return Response(plain, media_type=STATIC[name], headers=headers)


@router.get("/favicon.ico")
def icon() -> Response:
    """There is none; said so that no browser looks for it again."""
    return Response(status_code=204, headers={"Cache-Control": "public, max-age=86400"})


def _inside(place: str) -> str:
    """The place, if it is one of ours; else the first page."""
    return place if place.startswith("/") and not place.startswith(("//", "/\\")) and place.isprintable() else "/"
