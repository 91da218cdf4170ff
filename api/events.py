"""What happened to a job: as a list, or as a stream that never loses or repeats an event.

Every streamed event carries its number as `id`; whoever comes back with `Last-Event-ID` gets what followed.  The stream
is read from the store, so it does not matter which control plane answers, or whether it was started again in between.
"""

import random
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
from api.tails import PAGE, Tails, told
from service import wire
from service.store import Store
from service.views import Views

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"])

HEARTBEAT_SECONDS = 15.0
KEY_CHECK_SECONDS = 10.0  # so long a stream outlives the key that opened it
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
    limit: Annotated[int, Query(ge=1, le=5000, description="Events per page; a stream has no limit.")] = PAGE,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**31, description="For streams; wins over `after`.")] = None,
) -> Any:
    """Events, oldest first.

    With `Accept: text/event-stream` the answer is a stream of server-sent events that stays open until the job has
    finished.  Its last event is named `end` and holds the job's state; `bye` says that the service shuts down and the
    job goes on.  To go on after a break send `Last-Event-ID`.
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
            request.app.state.tails,
            key=principal.key,
            after=after if last_event_id is None else last_event_id,
            patience=control_plane.settings.poll_seconds,
            closing=request.app.state.closing,
        ),
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _stream(
    job_id: str,
    store: Store,
    views: Views,
    tails: Tails,
    *,
    key: str | None,
    after: int,
    patience: float,
    closing: threading.Event,
) -> AsyncIterator[bytes]:
    """Events until the job has finished and all are told, the key ends, or this process shuts down (`bye`).

    `patience`: seconds after which it looks at the latter two, when nothing happens.
    """
    heard = time.monotonic()
    checked = heard - random.uniform(0, KEY_CHECK_SECONDS)  # streams that began together do not all ask at once
    async with tails.listen(job_id, after) as tail:
        while not closing.is_set():
            if key is not None and time.monotonic() - checked >= KEY_CHECK_SECONDS:
                if not await anyio.to_thread.run_sync(store.key_works, key):
                    return
                checked = time.monotonic()
            end, chunks = tail.end, tail.take(after)  # in this order: what was told before the end is in the page below
            if chunks is None:  # from before the others began to listen
                page = await anyio.to_thread.run_sync(partial(views.events, job_id, after=after, limit=PAGE))
                chunks = [told(event) for event in page.events]
            for chunk in chunks:
                yield chunk
            after += len(chunks)  # they count without gaps
            if chunks:
                heard = time.monotonic()
            elif end is not None:
                yield end
                return
            elif time.monotonic() - heard >= HEARTBEAT_SECONDS:
                yield format_sse_event(comment="still here")
                heard = time.monotonic()
            else:
                await tail.wait(patience)
        yield format_sse_event(data_str="{}", event="bye")


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
