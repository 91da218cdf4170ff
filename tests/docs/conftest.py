"""A whole service for the pages' snippets: the real API, coordinator, stages, bundles; drivers are in this process."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from api.app import create_app
from service.artifacts import JobFiles
from service.client import Cohort
from service.connection import Connection
from service.control_plane import ControlPlane
from service.driver import run_job
from service.ray_jobs import FakeRayJobs
from service.roles import Role
from service.settings import Settings
from service.store import Store
from tests.docs.snippets import DOCS, snippets
from workers.launching.inline import InlineLauncher


@dataclass(frozen=True)
class Served:
    """A service, and what a reader of the pages has at hand."""

    url: str
    key: str
    home: Path
    data: Path
    """Its data root."""

    def finished_job(self) -> str:
        """The tutorial's job, trained at the first call."""
        text = next(each.text for each in snippets(DOCS / "tutorial/first-job.md") if each.file == "first.yaml")
        with Cohort(self.url, self.key) as client:
            job = client.wait(client.submit(text, idempotency_key="trained once").id, timeout=280, poll_seconds=0.2)
        assert job.state == "SUCCEEDED", job.reason
        return job.id

    def rest(self) -> None:
        """Ends what the page has left running, so that the next one has the machine."""
        with Cohort(self.url, self.key) as client:
            left = [job.id for job in client.jobs() if not job.is_finished]
            for job in left:
                client.cancel(job, now=True)
            for job in left:
                client.wait(job, timeout=120, poll_seconds=0.2)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    settings = Settings.model_validate({"home": home, "data_roots": [str(data)], "poll_seconds": 0.1})
    store = Store(settings.database_url)

    def drive(job_id: str, attempt: int) -> None:
        launcher = InlineLauncher()
        files = JobFiles(settings.storage_place, job_id)
        try:
            run_job(job_id, attempt, store=store, files=files, launcher=launcher, settings=settings)
        finally:
            launcher.close()

    control_plane = ControlPlane(settings, store=store, ray_jobs=FakeRayJobs(drive))
    control_plane.start()
    key = store.create_key("reader", role=Role.ADMIN)
    app = create_app(control_plane)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        Connection(url=url, key=key).write(home)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Served(url, key, home, data)
        finally:
            app.state.closing.set()
            server.should_exit = True
            thread.join()
            control_plane.stop()
