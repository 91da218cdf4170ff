"""What routes are handed: the control plane of their app, its views, and the body of a job description."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from api.problems import BodyTooLarge, UnsupportedBody
from service.control_plane import ControlPlane
from service.reading import MAX_BYTES
from service.views import Views

T = TypeVar("T")

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


async def asked(request: Request, question: Callable[..., T], *given: Any) -> T:
    """The answer to a short question to the store, which must only read.

    SQLite answers at once, since its readers wait for no writer: a thread would take longer to wake up, and then the
    two would wait for each other's turn with the interpreter (bench.load).  A server is asked from one of the app's few
    threads for this.  They are not those of the routes, so that whoever waits for something long keeps nobody from
    looking.
    """
    readers = request.app.state.readers
    if readers is None:
        return question(*given)
    ask = partial(copy_context().run, question, *given)  # a line of the log knows its request there, too
    return await asyncio.get_running_loop().run_in_executor(readers, ask)


ControlPlaneOf = Annotated[ControlPlane, Depends(control_plane)]
ViewsOf = Annotated[Views, Depends(views)]
JobTextOf = Annotated[JobText, Depends(job_text)]
