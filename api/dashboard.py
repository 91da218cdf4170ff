"""Ray's dashboard, to look at: for operators, because its pages show every tenant.

Whoever has the cluster's token can run code on it, so the token stays here and is added to what is passed on: `GET` of
the pages' own files and of what they show, and nothing else (Ray profiles processes by GET, too).  What comes back is
passed on as it comes, without cookies, and told to the browser as a page that may talk to nothing but the dashboard.
"""

import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from api.auth import operate
from api.context import ControlPlaneOf
from api.problems import BadQuery
from service.errors import NotFound, RayUnavailable

router = APIRouter(prefix="/dashboard", tags=["dashboard"])

_ID = r"[A-Za-z0-9_-]{1,128}"
_ALLOWED = re.compile(
    "|".join(
        (
            r"|favicon\.ico|static/(css|js|media)/[\w-]+(\.[\w-]+)+",
            rf"timezone|events|nodes(/{_ID})?|logical/actors(/{_ID})?",
            r"api/(version|authentication_mode|profiling_enabled|cluster_status|serve/applications/)",
            rf"api/jobs/({_ID}(/logs)?)?|api/data/datasets/{_ID}",
            r"api/v0/(actors|jobs|nodes|placement_groups|tasks|workers|cluster_events|platform_events)",
            r"api/v0/(tasks/summarize|actors/summarize|tasks/timeline|runtime_env_redaction|logs|logs/file)",
        )
    ),
    re.ASCII,
)
_WAY_OUT = re.compile(r"\.\.|^[/~\\]|[\0\r\n]")
_PASSED_ON = ("accept", "accept-encoding", "if-none-match", "if-modified-since")
_PASSED_BACK = (
    "content-type",
    "content-encoding",
    "content-length",
    "content-disposition",
    "etag",
    "last-modified",
    "cache-control",
)
MOST_SECONDS = 45.0  # so long an answer may take, and so long it outlives a key


@router.get("/{path:path}", dependencies=[Depends(operate)], response_class=Response, summary="Ray's dashboard")
async def look(path: str, request: Request, control_plane: ControlPlaneOf) -> Response:
    """A page of Ray's dashboard, or something that one shows, for operators.  404 for what is not passed on."""
    address = control_plane.dashboard
    if not address or not _ALLOWED.fullmatch(path):
        raise NotFound(f"There is nothing at {request.url.path!r:.200}. Ray's dashboard begins at `/dashboard/`.")
    asked = httpx2.QueryParams(tuple(request.query_params.multi_items()))
    if any(_WAY_OUT.search(value) for _, value in asked.multi_items()):
        raise BadQuery("A parameter holds a path that leads out. Name files as the listing of logs does.")
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    token = control_plane.dashboard_token
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx2.AsyncClient(timeout=MOST_SECONDS, trust_env=False))
        try:
            asking = client.build_request("GET", f"{address.rstrip('/')}/{path}", params=asked, headers=headers)
            answer = await client.send(asking, stream=True, follow_redirects=False)
            stack.push_async_callback(answer.aclose)
        except httpx2.TransportError as error:
            raise RayUnavailable("Ray's dashboard does not answer. Look at /readyz, and try again.") from error
        if answer.status_code == 404:
            raise NotFound(f"Ray's dashboard has nothing at {path!r:.200}.")
        if answer.status_code not in (200, 304):
            raise RayUnavailable(f"Ray's dashboard answered {answer.status_code}. Look at /readyz, and try again.")
        back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        back |= _protection(str(request.base_url))
        return StreamingResponse(_parts(answer, stack.pop_all()), answer.status_code, back)


async def _parts(answer: httpx2.Response, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """The bytes as they come, compressed ones still so, until they end or have taken too long."""
    ends = time.monotonic() + MOST_SECONDS
    async with stack:
        async for part in answer.aiter_raw():
            yield part
            if time.monotonic() >= ends:
                return


def _protection(base: str) -> dict[str, str]:
    """Scripts of the dashboard run beside our own pages: they may reach what is under `/dashboard/`, and no more."""
    here = f"{base}dashboard/"
    policy = {
        "default-src": "'none'",
        "script-src": here,
        "style-src": f"{here} 'unsafe-inline'",
        "img-src": f"{here} data:",
        "font-src": f"{here} data:",
        "connect-src": here,
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
