"""Streams that tell a page which of its parts are out of date; the page asks for these parts again.

An event carries nothing but its name, and as `id` all marks (`service.pages.marks`), so whoever comes back with
`Last-Event-ID` is told what has changed in between, by whichever control plane answers.
"""

import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated

import anyio
import anyio.to_thread
from fastapi import Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from api.context import ControlPlaneOf
from api.events import HEARTBEAT_SECONDS, KEY_CHECK_SECONDS
from api.pages.page import Visitor, page_router
from service.pages.marks import Marks, decode, encode, job_marks, list_marks
from service.roles import Role

router = page_router()

Seen = Annotated[str, Query(max_length=1000, description="The marks of the page as it is.")]
LastEventId = Annotated[str | None, Header(max_length=1000)]
StreamOfChanges = Callable[[Callable[[], Marks]], Response]
PAUSE_SECONDS = 1.0  # between two events of one stream, so that a busy job costs a page one request a second


async def stream(
    request: Request,
    principal: Visitor,
    control_plane: ControlPlaneOf,
    seen: Seen = "",
    last_event_id: LastEventId = None,
) -> StreamOfChanges:
    """Makes an answer that tells its page what changes of what is looked at."""
    store, key = control_plane.store, principal.key

    def make(look: Callable[[], Marks]) -> Response:
        changes = _changes(
            look,
            lambda: key is None or store.key_works(key),
            decode(last_event_id or seen),
            poll_seconds=control_plane.settings.poll_seconds,
            closing=request.app.state.closing,
        )
        return EventSourceResponse(changes, headers={"X-Accel-Buffering": "no"})

    return make


StreamOf = Annotated[StreamOfChanges, Depends(stream)]


@router.get("/live")
async def jobs(principal: Visitor, control_plane: ControlPlaneOf, stream: StreamOf) -> Response:
    """Tells when the list of jobs has changed."""
    tenant = None if principal.may(Role.OPERATOR) else principal.tenant
    return stream(partial(list_marks, control_plane.store, tenant))


@router.get("/jobs/{job_id}/live")
async def job(job_id: str, control_plane: ControlPlaneOf, stream: StreamOf) -> Response:
    """Tells what has changed of a job."""
    return stream(partial(job_marks, control_plane.store, job_id))


async def _changes(
    look: Callable[[], Marks],
    may_look: Callable[[], bool],
    seen: Marks,
    *,
    poll_seconds: float,
    closing: threading.Event,
) -> AsyncIterator[bytes]:
    """Names what differs from `seen`, and goes on until the key ends, what is looked at is gone, or this process shuts
    down."""
    heard = checked = time.monotonic()
    yield format_sse_event(comment="here")  # the browser knows at once that it is connected
    while not closing.is_set():
        if time.monotonic() - checked >= KEY_CHECK_SECONDS:
            if not await anyio.to_thread.run_sync(may_look):
                return
            checked = time.monotonic()
        marks = await anyio.to_thread.run_sync(look)
        if not marks:
            return
        changed = [name for name, mark in marks.items() if seen.get(name) != mark]
        for name in changed:  # the last one carries the marks: whoever hears only some of them hears all again
            id = encode(marks) if name == changed[-1] else None
            yield format_sse_event(data_str=marks[name], event=name, id=id)
        seen = marks
        if changed:
            heard = time.monotonic()
        elif time.monotonic() - heard >= HEARTBEAT_SECONDS:
            yield format_sse_event(comment="still here")
            heard = time.monotonic()
        await anyio.sleep(max(poll_seconds, PAUSE_SECONDS) if changed else poll_seconds)
