"""Event streams that break anywhere: whoever comes back with the last number it saw misses nothing and hears nothing
twice."""

import random
import threading
from pathlib import Path
from typing import Any

import anyio

from api.events import _stream
from api.tails import Tails
from service.spec import parse_spec
from service.views import Views
from tests.api.conftest import SPEC, make_control_plane

CLIENTS, EVENTS = 25, 150


def test_five_hundred_breaks_at_any_event_leave_no_gap_and_no_repetition(tmp_path: Path) -> None:
    control_plane = make_control_plane(tmp_path)
    store, views = control_plane.store, Views(control_plane.store, control_plane.settings)
    tails = Tails(store, views, 0.01)
    job = store.create_job(parse_spec(SPEC))[0].id
    heard: list[list[int]] = [[] for _ in range(CLIENTS)]
    breaks = 0

    async def follow(number: int) -> None:
        """Reads a few events at a time, and leaves in the middle of the stream."""
        nonlocal breaks
        rng, seqs = random.Random(number), heard[number]
        while len(seqs) < EVENTS:
            stream: Any = _stream(
                job,
                store,
                views,
                tails,
                key=None,
                after=seqs[-1] if seqs else 0,
                patience=0.01,
                closing=threading.Event(),
            )
            wanted = rng.randint(0, 10)
            async for chunk in stream:
                if b"id: " not in chunk:
                    continue
                if wanted == 0 and len(seqs) < EVENTS:  # it was sent, and the connection broke
                    break
                seqs.append(int(chunk.split(b"id: ")[1].split(b"\n")[0]))
                wanted -= 1
                if len(seqs) == EVENTS:
                    break
            await stream.aclose()
            breaks += 1

    async def speak() -> None:
        for number in range(EVENTS - 1):
            await anyio.to_thread.run_sync(store.add_event, job, "note", f"number {number}")

    async def all_at_once() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(speak)
            for number in range(CLIENTS):
                group.start_soon(follow, number)

    anyio.run(all_at_once)
    assert breaks >= 500
    assert heard == [list(range(1, EVENTS + 1))] * CLIENTS
