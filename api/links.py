"""Links to single files of a job, for those who have no key: signed, and good for a limited time."""

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse

from api.artifacts import file_answer
from api.auth import PrincipalOf, guard, limit
from api.context import ControlPlaneOf, ViewsOf
from api.problems import Forbidden
from service import wire_keys
from service.links import Grant, Links

router = APIRouter(prefix="/v1", tags=["artifacts"])

_WEEK = 7 * 86_400


@router.post(
    "/jobs/{job_id}/artifacts/{path:path}/url",
    status_code=201,
    dependencies=[Depends(guard)],
    summary="Make a link to a file",
)
def make(
    job_id: str,
    path: str,
    request: Request,
    principal: PrincipalOf,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    expires_in: Annotated[int, Query(ge=1, le=_WEEK, description="Seconds for which it is good.")] = 3600,
) -> wire_keys.ArtifactLink:
    """A URL under which anybody can fetch this file, and nothing else, without a key until it ends.

    It ends early when the job is deleted, and when the key that made it is revoked or expires.
    """
    views.artifact(job_id, path)
    until = control_plane.store.now() + expires_in
    token = Links(control_plane.store, control_plane.settings).sign(Grant(job_id, path, principal.key), until=until)
    url = f"{request.base_url}v1/links/{token}/{quote(PurePosixPath(path).name)}"
    return wire_keys.ArtifactLink(url=url, expires_at=datetime.fromtimestamp(until, UTC))


@router.head("/links/{token}/{name}", include_in_schema=False)
@router.get("/links/{token}/{name}", summary="Fetch a file by its link", response_class=FileResponse)
def follow(
    token: str,
    name: str,
    request: Request,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The file's bytes, as under `artifacts`.  Asks for no key; 403 for a link that is not good (any more)."""
    grant = Links(control_plane.store, control_plane.settings).read(token)
    if grant is None or PurePosixPath(grant.path).name != name:
        raise Forbidden("This link is not good, or not any more. Ask whoever gave it to you for a new one.")
    limit(request, grant.key)
    answer = file_answer(grant.job_id, grant.path, request, views, if_none_match)
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers["Cache-Control"] = "private, no-store"
    return answer
