"""Over a real server on loopback: streams that break and come back."""

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import update

from api import events
from service import tables
from service.client import ApiError, Cohort
from service.control_plane import ControlPlane
from service.spec import parse_spec
from service.states import Desired, JobState
from tests.api.conftest import served

SPEC = "name: x\nbackbone: {model: demo}\ntasks:\n  - {name: a, source: {kind: demo, task: digits-ink}}\n"
# nobody listens at the Ray address: nothing is submitted here
SIGNALLED_AT_ONCE = """
import os, signal, sys
from api.serve import serve
from service.settings import Settings
settings = Settings.load(home=sys.argv[1], port=0, ray_address="http://127.0.0.1:9")
serve(settings, started=lambda connection: os.kill(os.getpid(), getattr(signal, sys.argv[2])))
print("ended")
"""
SIGNALLED_TWICE = """
import os, signal, sys, threading
from api.serve import serve
from service.control_plane import ControlPlane
from service.settings import Settings
def stop(self):  # what hangs in the end
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
ControlPlane.stop = stop
settings = Settings.load(home=sys.argv[1], port=0, ray_address="http://127.0.0.1:9")
serve(settings, started=lambda connection: os.kill(os.getpid(), signal.SIGTERM))
print("ended")
"""


def _read(url: str, key: str, after: int, until: Callable[[int], bool]) -> list[int]:
    """Numbers of the events that a stream tells, until one is enough or the stream ends."""
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream", "Last-Event-ID": str(after)}
    seen = []
    with httpx2.stream("GET", url, headers=headers, timeout=10) as answer:
        for event in httpx2.EventSource(answer):
            if event.event == "end":
                break
            seen.append(int(event.id))
            if until(seen[-1]):
                break
    return seen


def test_a_stream_that_breaks_anywhere_resumes_without_gap_or_repeat(control_plane: ControlPlane, key: str) -> None:
    store = control_plane.store
    job = store.create_job(parse_spec(SPEC))[0].id
    total = 60

    def happen() -> None:
        for number in range(2, total):
            store.add_event(job, "note", f"event {number}")
        store.move(job, JobState.CANCELLED, attempt=None)

    with served(control_plane) as url:
        writer = threading.Thread(target=happen)
        writer.start()
        seen: list[int] = []
        while not seen or seen[-1] < total:
            after = seen[-1] if seen else 0
            seen += _read(f"{url}/v1/jobs/{job}/events", key, after, lambda seq: seq % 7 == 0)
        writer.join()
    assert seen == list(range(1, total + 1))


def test_a_waiting_stream_hears_of_what_happens_later(control_plane: ControlPlane, key: str) -> None:
    store = control_plane.store
    job = store.create_job(parse_spec(SPEC))[0].id
    with served(control_plane) as url:
        headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
        with httpx2.stream("GET", f"{url}/v1/jobs/{job}/events", headers=headers, timeout=10) as answer:
            events = iter(httpx2.EventSource(answer))
            assert next(events).event == "state"
            store.set_desired(job, Desired.PAUSE)
            assert next(events).event == "wish"


def test_a_reader_that_hardly_reads_holds_up_its_own_stream_and_misses_nothing(
    control_plane: ControlPlane, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, size, told = 1500, 16_000, {0: 0, 1: 0}
    stream = events._stream

    async def counted(*args: Any, after: int, **kwargs: Any) -> AsyncIterator[bytes]:
        async for chunk in stream(*args, after=after, **kwargs):
            told[after] += len(chunk)
            yield chunk

    monkeypatch.setattr(events, "_stream", counted)
    store = control_plane.store
    job = store.create_job(parse_spec(SPEC))[0].id
    with served(control_plane) as url, socket.socket() as slow:
        slow.settimeout(20)
        slow.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        lines = [f"GET /v1/jobs/{job}/events HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}"]
        slow.sendall("\r\n".join([*lines, "Accept: text/event-stream", "Connection: close", "", ""]).encode())
        heard = slow.recv(1)
        for _ in range(total - 2):
            store.add_event(job, "note", "x" * size)
        store.move(job, JobState.CANCELLED, attempt=None)
        assert _read(f"{url}/v1/jobs/{job}/events", key, 1, lambda seq: False) == list(range(2, total + 1))
        assert told[1] > total * size > 2 * told[0]  # what it leaves unread is not piled up for it
        while part := slow.recv(2**20):
            heard += part
    assert [int(seq) for seq in re.findall(rb"^id: (\d+)$", heard, re.MULTILINE)] == list(range(1, total + 1))


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_stream_ends_with_its_key(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    assert control_plane.settings.poll_seconds + events.KEY_CHECK_SECONDS < 60
    monkeypatch.setattr(events, "KEY_CHECK_SECONDS", 0.0)
    store = control_plane.store
    job = store.create_job(parse_spec(SPEC))[0].id
    key, other = (store.create_key("x", expires_in=3600) for _ in range(2))
    with served(control_plane) as url, ExitStack() as stack:
        streams = []
        for each in (key, other):
            headers = {"Authorization": f"Bearer {each}", "Accept": "text/event-stream"}
            answer = httpx2.stream("GET", f"{url}/v1/jobs/{job}/events", headers=headers, timeout=20)
            streams.append(iter(httpx2.EventSource(stack.enter_context(answer))))
            assert next(streams[-1]).event == "state"
        if how == "revoked":
            store.revoke_key(key.split("_")[1])
        else:
            with store.write() as connection:
                prefix = tables.api_keys.c.prefix == key.split("_")[1]
                connection.execute(update(tables.api_keys).where(prefix).values(expires_at=store.now()))
        assert list(streams[0]) == []
        store.set_desired(job, Desired.PAUSE)
        assert next(streams[1]).event == "wish"  # another key's stream goes on
        with Cohort(url, key) as client, pytest.raises(ApiError) as refused:
            list(client.watch(job))
        assert refused.value.status == 401


def test_an_open_stream_ends_when_the_server_stops(control_plane: ControlPlane, key: str) -> None:
    job = control_plane.store.create_job(parse_spec(SPEC))[0].id
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    with httpx2.Client(timeout=10) as client, ExitStack() as stack:
        serving = stack.enter_context(ExitStack())
        url = serving.enter_context(served(control_plane))
        answer = stack.enter_context(client.stream("GET", f"{url}/v1/jobs/{job}/events", headers=headers))
        events = iter(httpx2.EventSource(answer))
        assert next(events).event == "state"
        serving.close()  # returns only once the server has stopped, which waits for its connections
        assert [event.event for event in events] == ["bye"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_comes_while_the_server_is_about_to_run_ends_it(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", SIGNALLED_AT_ONCE, str(tmp_path), name]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr


def test_a_second_signal_ends_the_service_at_once_whatever_it_waits_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SIGNALLED_TWICE, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, ""), ended.stderr
