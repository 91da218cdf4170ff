"""What routes are handed: the control plane of their app, its views, and the body of a job description."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from fastapi import Depends, Request

from api.problems import BodyTooLarge, UnsupportedBody
from service.control_plane import ControlPlane
from service.reading import MAX_BYTES
from service.views import Views

T = TypeVar("T")

READERS = 2
"""Threads for short questions to the store."""
_readers = RunVar[anyio.CapacityLimiter]("readers")  # of every event loop its own: none may wait for another's

_JSON = {"application/json"}
_YAML = {"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "application/vnd.yaml"}


@dataclass(frozen=True)
class JobText:
    """A job description as it was sent."""

    text: bytes
    json_only: bool
    """It was announced as JSON."""


async def control_plane(request: Request) -> ControlPlane:  # async: a plain function would take a thread
    return request.app.state.control_plane


async def views(request: Request) -> Views:
    return request.app.state.views


async def job_text(request: Request) -> JobText:
    """Reads the body, but never more of it than a job description may have.  BodyTooLarge, UnsupportedBody."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in _JSON | _YAML:
        raise UnsupportedBody(
            f"The body is announced as {given or 'nothing'!r:.100}; expected a description in YAML or JSON. "
            "Send Content-Type: application/yaml or application/json."
        )
    return JobText(await body(request, MAX_BYTES), kind in _JSON)


async def body(request: Request, limit: int) -> bytes:
    """The whole body; BodyTooLarge as soon as it has more bytes than `limit`."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > limit:
            raise BodyTooLarge(
                f"The body has more than {limit} bytes, the most a description may have. "
                "Of a job, name a manifest per task instead of long lists of classes."
            )
    return bytes(found)


async def asked(question: Callable[..., T], *given: Any) -> T:
    """The answer to a short question to the store, from one of the few threads that ask those.

    More threads are slower: SQLite lets go of the interpreter between any two rows, and each wants it back.  They are
    not those of the routes, so that whoever waits for something long keeps nobody from looking.
    """
    try:
        readers = _readers.get()
    except LookupError:
        _readers.set(readers := anyio.CapacityLimiter(READERS))
    return await anyio.to_thread.run_sync(question, *given, limiter=readers)


ControlPlaneOf = Annotated[ControlPlane, Depends(control_plane)]
ViewsOf = Annotated[Views, Depends(views)]
JobTextOf = Annotated[JobText, Depends(job_text)]
