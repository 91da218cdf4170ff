"""The newest events of jobs that somebody listens to: read once and put into bytes once, however many listen."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice

import anyio.to_thread
from fastapi.sse import format_sse_event

from service import wire
from service.store import Store
from service.views import Views

PAGE = 500


def told(event: wire.Event) -> bytes:
    """An event as a stream sends it."""
    return format_sse_event(data_str=event.model_dump_json(), event=event.kind, id=str(event.seq))


class Tail:
    """What one job's listeners have not heard yet.  It is read until the job has finished and all is told."""

    def __init__(self, job_id: str, after: int, store: Store, views: Views, poll_seconds: float) -> None:
        self.end: bytes | None = None
        """The last thing to be told; None while more may come."""
        self._job_id = job_id
        self._store = store
        self._views = views
        self._before = after  # the number of the event before the first that is kept; they count without gaps
        self._kept: deque[bytes] = deque()
        self._news = asyncio.Event()
        self.listeners = 0
        self.reading = asyncio.create_task(self._read(poll_seconds))

    def take(self, after: int) -> list[bytes] | None:
        """Events above `after`, oldest first; None: they are not kept any more, the store has them."""
        return None if after < self._before else list(islice(self._kept, after - self._before, None))

    async def wait(self, seconds: float) -> None:
        """Until there is something new, at most so long.  Raises what reading raised."""
        if self.reading.done() and self.end is None:
            self.reading.result()
        with anyio.move_on_after(seconds):
            await self._news.wait()

    async def _read(self, poll_seconds: float) -> None:
        try:
            while self.end is None:
                if not await self._look():
                    await anyio.sleep(poll_seconds)
        finally:
            self._tell()

    async def _look(self) -> bool:
        """Whether there may be more at once."""
        # the state first: events of a job that is finished by now are all in the page that is read after it
        job = await anyio.to_thread.run_sync(self._store.get_job, self._job_id)
        after = self._before + len(self._kept)
        page = await anyio.to_thread.run_sync(partial(self._views.events, self._job_id, after=after, limit=PAGE))
        for event in page.events:
            self._kept.append(told(event))
            if len(self._kept) > PAGE:
                self._kept.popleft()
                self._before += 1
        if not page.events and job.is_finished:
            ended = (await anyio.to_thread.run_sync(self._views.job, job)).model_dump_json(include={"id", "state"})
            self.end = format_sse_event(data_str=ended, event="end")
        if page.events:
            self._tell()
        return bool(page.events)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Tails:
    """The tails of all jobs that are listened to, of one application."""

    def __init__(self, store: Store, views: Views, poll_seconds: float) -> None:
        self._store = store
        self._views = views
        self._poll_seconds = poll_seconds
        self._tails: dict[str, Tail] = {}

    @asynccontextmanager
    async def listen(self, job_id: str, after: int) -> AsyncIterator[Tail]:
        """The job's tail; of one that nobody listened to it begins after the event of that number."""
        tail = self._tails.get(job_id)
        if tail is None or tail.reading.done():
            tail = self._tails[job_id] = Tail(job_id, after, self._store, self._views, self._poll_seconds)
        tail.listeners += 1
        try:
            yield tail
        finally:
            tail.listeners -= 1
            if not tail.listeners:
                tail.reading.cancel()
                if self._tails.get(job_id) is tail:
                    del self._tails[job_id]
