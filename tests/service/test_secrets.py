"""Laws of secrets: what the service is trusted with stands nowhere that users or Ray can see."""

import json
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from service import tables
from service.driver import run_job
from service.ray_head import RayHead
from service.ray_jobs import RayJobs
from service.settings import Settings
from service.spec import JobSpec
from service.states import JobState
from workers.launching.inline import InlineLauncher

if TYPE_CHECKING:
    from tests.service.conftest import World
else:
    World = object

CANARIES = {
    name: f"canary-{name}-0123456789abcdef0123456789" for name in ("token", "link", "database", "bucket", "env")
}


def secretive(home: Path, data: Path) -> Settings:
    """Settings in which every secret is a canary."""
    return Settings.model_validate(
        {
            "home": home,
            "data_roots": [str(data)],
            "poll_seconds": 0.02,
            "ray_token": CANARIES["token"],
            "link_secret": CANARIES["link"],
            "database_url": f"postgresql+psycopg://cohort:{CANARIES['database']}@127.0.0.1:1/cohort",
            "storage_options": {"key": CANARIES["bucket"]},
        }
    )


def singing(text: str | bytes) -> list[str]:
    """The canaries in a text."""
    content = text.encode() if isinstance(text, str) else text
    return [name for name, canary in CANARIES.items() if canary.encode() in content]


class Watching(InlineLauncher):
    """Remembers what would travel through Ray."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def start(self, work: Any, *rest: Any, **more: Any) -> Any:
        self.sent.append(pickle.dumps(work))
        return super().start(work, *rest, **more)


@pytest.fixture
def world(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> World:
    world = make_world()
    world.settings = secretive(world.settings.home, tmp_path_factory.getbasetemp())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARIES["env"])
    monkeypatch.setenv("COHORT_RAY_TOKEN", CANARIES["token"])
    return world


@pytest.mark.slow
def test_a_whole_job_tells_no_secret(
    world: World,
    make_spec: Callable[..., JobSpec],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    good = make_spec()
    broken = good.model_copy(update={"backbone": good.backbone.model_copy(update={"model": "local-dir:/nowhere"})})
    ended, launcher = {}, Watching()
    for spec in (good, broken):
        job = world.submit(spec)
        attempt, files = world.store.start_attempt(job), world.files(job)
        ended[job] = run_job(job, attempt, store=world.store, files=files, launcher=launcher, settings=world.settings)
    launcher.close()
    assert list(ended.values()) == [JobState.SUCCEEDED, JobState.FAILED], [world.why(job) for job in ended]
    written = [path for path in world.settings.home.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in written) and any(path.suffix == ".log" for path in written)
    assert {str(path): singing(path.read_bytes()) for path in written if singing(path.read_bytes())} == {}
    with world.store.read() as connection:
        rows = [str(row) for table in tables.metadata.sorted_tables for row in connection.execute(select(table))]
    assert len(rows) > 20 and singing("\n".join(rows)) == []
    assert len(launcher.sent) >= 2 and singing(b"".join(launcher.sent)) == []
    told = capfd.readouterr()
    assert singing(caplog.text + told.out + told.err) == []


@pytest.fixture
def cluster() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """An address that takes jobs, and what it was sent: headers apart from the rest."""
    sent: list[tuple[str, str, bytes]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sent.append((self.path, str(self.headers), body))
            answer = json.dumps({"submission_id": "job-x-a1", "job_id": "job-x-a1"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()
        thread.join()


def test_what_ray_shows_of_a_job_holds_no_secret(
    cluster: tuple[str, list[tuple[str, str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, sent = cluster
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARIES["env"])
    RayJobs(address, CANARIES["token"]).submit("job-x", 1, "a name")
    [(path, headers, body)] = sent
    assert singing(headers) == ["token"]
    assert singing(path) == singing(body) == []
    told = json.loads(body)
    assert set(told["metadata"]) == {"job_name", "cohort_job", "cohort_attempt"}
    assert not (told.get("runtime_env") or {}).get("env_vars")


def test_a_head_of_our_own_is_given_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COHORT_RAY_TOKEN", "COHORT_LINK_SECRET", "COHORT_DATABASE_URL"):
        monkeypatch.setenv(name, CANARIES["token"])
    monkeypatch.setenv("COHORT_STORAGE_OPTIONS", json.dumps({"key": CANARIES["bucket"]}))
    monkeypatch.setenv("RAY_AUTH_TOKEN", CANARIES["token"])
    head = RayHead(secretive(tmp_path, tmp_path))
    environment = head._environment("COHORT_HEAD=x")
    assert singing(json.dumps(environment)) == []
    assert not [value for value in environment.values() if head.token in value]
    assert (tmp_path / "ray_token").stat().st_mode & 0o777 == 0o600


def test_settings_told_to_a_person_or_a_log_hold_no_secret(tmp_path: Path) -> None:
    settings = secretive(tmp_path, tmp_path)
    assert singing(repr(settings) + str(settings)) == []
    running = settings.write_running()
    assert singing(running.read_text()) == ["token", "database", "bucket"]  # what drivers need, and not what links are
    assert running.stat().st_mode & 0o777 == 0o600
