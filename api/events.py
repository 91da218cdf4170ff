"""What happened to a job: as a list, or as a stream that never loses or repeats an event.

Every streamed event carries its number as `id`; whoever comes back with `Last-Event-ID` gets what followed.  The stream
is read from the store, so it does not matter which control plane answers, or whether it was started again in between.
"""

import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from api.auth import PrincipalOf
from api.context import ControlPlaneOf, ViewsOf
from service import wire
from service.store import Store
from service.views import Views

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"])

HEARTBEAT_SECONDS = 15.0
KEY_CHECK_SECONDS = 10.0  # so long a stream outlives the key that opened it
_PAGE = 500
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or with `Accept: text/event-stream` a stream whose `data` are events, ended by `end`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/events", response_model=wire.EventPage, responses=_STREAM, summary="What happened, and what happens")
async def events(
    job_id: str,
    request: Request,
    principal: PrincipalOf,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Only events with a higher number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=5000, description="Events per page; a stream has no limit.")] = _PAGE,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**31, description="For streams; wins over `after`.")] = None,
) -> Any:
    """Events, oldest first.

    With `Accept: text/event-stream` the answer is a stream of server-sent events that stays open until the job has
    finished.  Its last event is named `end` and holds the job's state.  To go on after a break send `Last-Event-ID`.
    A stream whose key is revoked or expires is closed.
    """
    if "text/event-stream" not in request.headers.get("accept", ""):
        return await anyio.to_thread.run_sync(partial(views.events, job_id, after=after, limit=limit))
    await anyio.to_thread.run_sync(control_plane.store.get_job, job_id)  # before the stream begins, so that 404 is one
    return EventSourceResponse(
        _stream(
            job_id,
            control_plane.store,
            views,
            key=principal.key,
            after=after if last_event_id is None else last_event_id,
            poll_seconds=control_plane.settings.poll_seconds,
            closing=request.app.state.closing,
        ),
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _stream(
    job_id: str,
    store: Store,
    views: Views,
    *,
    key: str | None,
    after: int,
    poll_seconds: float,
    closing: threading.Event,
) -> AsyncIterator[bytes]:
    """Looks for events until the job has finished and all are told, the key ends, or this process shuts down."""
    heard = checked = time.monotonic()
    while not closing.is_set():
        if key is not None and time.monotonic() - checked >= KEY_CHECK_SECONDS:
            if not await anyio.to_thread.run_sync(store.key_works, key):
                return
            checked = time.monotonic()
        # the state first: events of a job that is finished by now are all in the page that is read after it
        job = await anyio.to_thread.run_sync(store.get_job, job_id)
        page = await anyio.to_thread.run_sync(partial(views.events, job_id, after=after, limit=_PAGE))
        for event in page.events:
            yield format_sse_event(data_str=event.model_dump_json(), event=event.kind, id=str(event.seq))
            after = event.seq
        if page.events:
            heard = time.monotonic()
            continue
        if job.is_finished:
            yield format_sse_event(data_str=views.job(job).model_dump_json(include={"id", "state"}), event="end")
            return
        if time.monotonic() - heard >= HEARTBEAT_SECONDS:
            yield format_sse_event(comment="still here")
            heard = time.monotonic()
        await anyio.sleep(poll_seconds)


@router.get("/groups/{group}/logs", summary="A group's log", response_class=Response)
def logs(
    job_id: str,
    group: str,
    views: ViewsOf,
    offset: Annotated[int, Query(ge=0, lt=2**53, description="Bytes to leave out: the `X-Next-Offset` before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=2**22, description="Bytes at most.")] = 2**20,
) -> Response:
    """Lines as plain text.  To follow a log ask again with `X-Next-Offset` as `offset`."""
    text = views.log(job_id, group, offset=offset, limit=limit)
    headers = {"X-Next-Offset": str(offset + len(text))}
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)
