"""The files that a job has left: listed, and fetched whole or in part."""

import mimetypes
import re
from email.utils import format_datetime
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from api.context import ViewsOf
from api.problems import RangeRefused
from service import wire

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["artifacts"])

# What a job leaves is data, not pages of ours: a file that a browser opens may run nothing and load nothing.
_SANDBOX = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}
_RANGE = re.compile(r"(\d*)-(\d*)")


@router.get("/artifacts", summary="List the files")
def list_artifacts(job_id: str, views: ViewsOf) -> wire.ArtifactList:
    """Every file of the job.  The bundle is complete once `bundle/manifest.json` is there."""
    return views.artifacts(job_id)


@router.head("/artifacts/{path:path}", include_in_schema=False)
@router.get("/artifacts/{path:path}", summary="Fetch a file", response_class=FileResponse)
def fetch(
    job_id: str,
    path: str,
    request: Request,
    views: ViewsOf,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The file's bytes.  Understands `Range`, `If-Range` and `If-None-Match`; a HEAD tells the headers alone."""
    return file_answer(job_id, path, request, views, if_none_match)


@router.head("/report", include_in_schema=False)
@router.get("/report", summary="The report, as a page", response_class=FileResponse)
def report(
    job_id: str, request: Request, views: ViewsOf, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """A page with the groups, the similarities and the results.  404 until the job has published it."""
    return file_answer(job_id, views.report_path(job_id), request, views, if_none_match)


def file_answer(job_id: str, path: str, request: Request, views: ViewsOf, if_none_match: str | None) -> Response:
    """A file of a job, or the part of it that the request asks for."""
    found = views.artifact(job_id, path)
    tag, size = f'"{found.info.tag}"', found.info.size
    headers = {"ETag": tag, **_SANDBOX}
    if if_none_match is not None and _matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    _check_range(wanted, size)
    kind = mimetypes.guess_type(path)[0] or ("text/plain" if path.endswith(".log") else "application/octet-stream")
    if found.is_local:
        return FileResponse(found.place, media_type=kind, headers=headers)
    headers |= {"Accept-Ranges": "bytes", "Last-Modified": format_datetime(found.info.modified_at, usegmt=True)}
    start, stop, status = 0, size, 200
    # one part at most: whoever asks for several may be given the whole
    if wanted is not None and "," not in wanted and request.headers.get("if-range", tag) == tag:
        start, stop = _bounds(wanted, size)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        status = 206
    headers["Content-Length"] = str(stop - start)
    body = found.chunks(start, stop) if request.method != "HEAD" else iter(())
    return StreamingResponse(body, status, media_type=kind, headers=headers)


def _matches(wanted: str, tag: str) -> bool:
    return wanted.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in wanted.split(",")]


def _check_range(wanted: str | None, size: int) -> None:
    """Refuses a range of which the file has no byte.  RangeRefused."""
    if wanted is None:
        return
    unit, _, ranges = wanted.partition("=")
    parts = [_RANGE.fullmatch(part.strip()) for part in ranges.split(",")]
    good = unit.strip().lower() == "bytes" and all(
        part and _has_bytes(part.group(1), part.group(2), size) for part in parts
    )
    if not good:
        raise RangeRefused(
            f"Range {wanted!r:.100} names no bytes of a file of {size}. Ask for e.g. `bytes=0-{max(size - 1, 0)}`.",
            size=size,
        )


def _bounds(wanted: str, size: int) -> tuple[int, int]:
    """The first byte of a range of which there are bytes, and the one after its last."""
    first, _, last = wanted.partition("=")[2].strip().partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _has_bytes(first: str, last: str, size: int) -> bool:
    if not first:
        return bool(last) and int(last) > 0 and size > 0
    return int(first) < size and (not last or int(last) >= int(first))
