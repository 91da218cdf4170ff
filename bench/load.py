"""How the API does under load: many jobs in the store, many requests a second, many streams open.

    python -m bench.load [--jobs 10000] [--rate 200] [--windows 9] [--seconds 10] [--streams 100] [--events 10]
                         [--database URL]

Serves a control plane in a process of its own on loopback (SQLite in a file, or the given database), without Ray.
Requests leave on a clock, whether or not earlier ones were answered, and their time counts from when they were due.
A machine that is shared slows down for seconds at a time, so there are several windows; before each stands what a fixed
piece of work took.  What is slow in all windows is the service; what is slow with the work is the machine.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from sqlalchemy import insert, select, text

from api.app import create_app
from api.serve import Server
from service import tables
from service.control_plane import ControlPlane
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store

SPEC = {
    "name": "load",
    "backbone": {"model": "demo"},
    "tasks": [{"name": f"task-{index}", "source": {"kind": "demo", "task": "plain"}} for index in range(8)],
}
BATCH = 500


def main() -> None:
    """Prints the figures and writes bench/results/load.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=200, help="requests per second")
    parser.add_argument("--windows", type=int, default=9, help="measurements, of which the median counts")
    parser.add_argument("--seconds", type=float, default=10.0, help="per window")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--events", type=float, default=10.0, help="events per second while streams are open")
    parser.add_argument("--database", default="", help="left out: SQLite in a file")
    parser.add_argument("--serve", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(Path(options.serve), options.database)
        return
    with tempfile.TemporaryDirectory() as home:
        figures = _measure(options, Path(home))
    print(json.dumps(figures, indent=2))
    from bench.record import write_record  # brings torch, which is not to be counted as the service's

    command = f"python -m bench.load --jobs {options.jobs} --rate {options.rate} --streams {options.streams}"
    command += f" --windows {options.windows} --seconds {options.seconds:g}"
    write_record("load", command, figures)


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    store = Store(_url(home, options.database))
    store.create_schema()
    jobs = _fill(store, options.jobs)
    key = store.create_key("load")
    watched = store.create_job(parse_spec(SPEC))[0].id
    command = [sys.executable, "-m", "bench.load", "--serve", str(home), "--database", options.database]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        return {"jobs": len(jobs), "database": store.dialect} | asyncio.run(
            _load(options, store, server.pid, url, key, jobs, watched)
        )
    finally:
        server.communicate()
        store.close()


def _url(home: Path, database: str) -> str:
    return database or f"sqlite:///{home / 'cohort.db'}"


def _serve(home: Path, database: str) -> None:
    """The service; it ends when its input does."""
    settings = Settings.model_validate(
        {"home": home, "database_url": _url(home, database), "requests_per_minute": 0, "max_running_jobs": 1}
    )
    control_plane = ControlPlane(settings, ray_jobs=FakeRayJobs())
    control_plane.start()
    app = create_app(control_plane)
    server = Server(app)
    threading.Thread(target=server.stop_with_stdin, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        try:
            server.run(sockets=[listener])
        finally:
            control_plane.stop()


def _fill(store: Store, count: int) -> list[str]:
    """So many finished jobs, made of one, with its events; their ids."""
    first = store.create_job(parse_spec(SPEC))[0].id
    store.move(first, JobState.FAILED, attempt=None, reason="made for the load")
    ids = [first]
    with store.read() as connection:
        job = dict(connection.execute(select(tables.jobs).where(tables.jobs.c.id == first)).mappings().one())
        of_job = select(tables.events).where(tables.events.c.job_id == first)
        events = [dict(row) for row in connection.execute(of_job).mappings()]
    events = [{name: value for name, value in event.items() if name != "id"} for event in events]
    number = 0
    while len(ids) < count:
        fresh = [f"job-0{number + offset:011d}" for offset in range(min(BATCH, count - len(ids)))]
        number += len(fresh)
        with store.write() as connection:
            rows = [job | {"id": id, "name": f"load-{id[-5:]}"} for id in fresh]
            rows = [row | {"spec": row["spec"].replace('"load"', f'"{row["name"]}"')} for row in rows]
            connection.execute(insert(tables.jobs), rows)
            connection.execute(insert(tables.events), [event | {"job_id": id} for id in fresh for event in events])
        ids += fresh
    if store.dialect == "postgresql":
        with store.write() as connection:
            connection.execute(text("ANALYZE"))  # as its autovacuum does within a minute
    return ids


async def _load(
    options: argparse.Namespace, store: Store, pid: int, url: str, key: str, jobs: list[str], watched: str
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(limit=0)
    # the lightest client: it shares two cores with what it measures
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as client:
        await _requests(client, jobs, options.rate, 2.0)  # warm
        gc.collect()
        gc.freeze()  # or this side's own collections, 200 ms each, would count as the service's time
        figures: dict[str, Any] = {"rss_mib_before": _rss(pid)}
        figures["alone"] = await _windows(client, jobs, options)
        figures["rss_mib_after_requests"] = _rss(pid)
        over = asyncio.Event()
        streams = [asyncio.create_task(_stream(client, watched)) for _ in range(options.streams)]
        speaking = asyncio.create_task(_speak(store, watched, options.events, over))
        await asyncio.sleep(2.0)
        figures["with_streams"] = await _windows(client, jobs, options)
        figures["rss_mib_with_streams"] = _rss(pid)
        over.set()
        told = await speaking
        seen = await asyncio.gather(*streams)
    whole = list(range(1, told + 1))
    figures["streams"] = {
        "open": options.streams,
        "events_told": told,
        "without_gap": sum(seqs[: len(whole)] == whole for seqs in seen),
        "mib_each": round((figures["rss_mib_with_streams"] - figures["rss_mib_after_requests"]) / options.streams, 3),
    }
    return figures


async def _windows(client: aiohttp.ClientSession, jobs: list[str], options: argparse.Namespace) -> dict[str, Any]:
    windows = []
    for _ in range(options.windows):
        work_ms = _fixed_work()
        windows.append({"work_ms": work_ms} | await _requests(client, jobs, options.rate, options.seconds))
    medians = {
        kind: {share: statistics.median(window[kind][share] for window in windows) for share in windows[0][kind]}
        for kind in ("list", "get")
    }
    return {"median": medians, "windows": windows}


def _fixed_work() -> float:
    """Milliseconds that always the same arithmetic took."""
    began = time.perf_counter()
    sum(number * number for number in range(1_000_000))
    return round(1000 * (time.perf_counter() - began), 1)


async def _requests(client: aiohttp.ClientSession, jobs: list[str], rate: int, seconds: float) -> dict[str, Any]:
    """Half lists, half single jobs, on the clock."""
    rng, began = random.Random(0), time.perf_counter()
    taken: dict[str, list[float]] = {"list": [], "get": []}
    wrong = 0

    async def ask(kind: str, due: float) -> None:
        nonlocal wrong
        page = {"limit": "50", "after": rng.choice(jobs)} if rng.random() < 0.5 else {"limit": "50"}
        path = "/v1/jobs" if kind == "list" else f"/v1/jobs/{rng.choice(jobs)}"
        async with client.get(path, params=page if kind == "list" else None) as answer:
            await answer.read()
        wrong += answer.status != 200
        taken[kind].append(time.perf_counter() - due)

    under_way = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        under_way.append(asyncio.create_task(ask("list" if number % 2 else "get", due)))
    await asyncio.gather(*under_way)
    spent = time.perf_counter() - began
    return {"requests": len(under_way), "per_second": round(len(under_way) / spent, 1), "not_200": wrong} | {
        kind: {f"p{share}_ms": round(1000 * float(np.percentile(found, share)), 1) for share in (50, 99)}
        for kind, found in taken.items()
    }


async def _stream(client: aiohttp.ClientSession, job: str) -> list[int]:
    """The numbers of the events that come, until the last one that was told is there."""
    seqs: list[int] = []
    ended = False
    headers = {"Accept": "text/event-stream"}
    async with client.get(f"/v1/jobs/{job}/events", headers=headers, timeout=aiohttp.ClientTimeout()) as answer:
        async for line in answer.content:
            if line.startswith(b"id:"):
                seqs.append(int(line[3:]))
            ended = ended or b'"the end"' in line
            if ended and line == b"\n":
                break
    return seqs


async def _speak(store: Store, job: str, rate: float, over: asyncio.Event) -> int:
    """Tells events until it is over; the number of the last one."""
    while not over.is_set():
        await asyncio.to_thread(store.add_event, job, "note", "something happened")
        await asyncio.sleep(1 / rate)
    seq = await asyncio.to_thread(store.add_event, job, "note", "the end")
    assert seq is not None
    return seq


def _rss(pid: int) -> float:
    """Resident memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


if __name__ == "__main__":
    main()
