"""Two ways to try the service without Ray: the real API on loopback, with drivers that only pretend; and the real
driver, with its works in this process.
"""

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from api.app import create_app
from grouping.plan import trivial_plan
from service.artifacts import JobFiles
from service.cli import app
from service.connection import Connection
from service.control_plane import ControlPlane
from service.driver import run_job
from service.ray_jobs import FakeRayJobs
from service.roles import Role
from service.settings import Settings
from service.spec import JobSpec, parse_spec
from service.states import JobState
from service.store import Store
from workers.launching.inline import InlineLauncher
from workers.launching.launcher import Launcher

SPEC = """\
name: two-tasks
backbone: {model: demo}
tasks:
  - {name: a, source: {kind: folder, uri: a}}
  - {name: b, source: {kind: folder, uri: b}}
"""
_PLAN = {
    "groups": [{"id": "g1", "tasks": ["a", "b"], "cohesion": 0.5, "reason": "a and b agree."}],
    "tasks": [
        {"task": task, "group": "g1", "nearest": [], "margin": None, "sentence": f"{task} fits."} for task in "ab"
    ],
    "order": ["b", "a"],
    "task_names": ["a", "b"],
    "similarity": [[1.0, 0.25], [0.25, 1.0]],
}


@dataclass(frozen=True)
class LiveService:
    """A served control plane."""

    url: str
    key: str
    control_plane: ControlPlane
    home: Path
    spec: Path
    """A job description that it accepts."""

    @property
    def store(self) -> Store:
        return self.control_plane.store

    def submitted(self) -> str:
        return self.store.create_job(parse_spec(SPEC))[0].id

    def finish(self, job: str, to: JobState = JobState.SUCCEEDED) -> str:
        """Plays the job's driver to the end: a plan, a group, numbers, results, a bundle."""
        store, files = self.store, JobFiles(self.control_plane.settings.storage, job)
        attempt = store.start_attempt(job)
        for state in (JobState.VALIDATING, JobState.PROFILING, JobState.GROUPING):
            store.move(job, state, attempt=attempt)
        outline = trivial_plan(["a", "b"], "all").outline()
        plan = json.dumps(_PLAN)
        store.add_plan(
            job, outline, lambda n: files.write_text(f"plans/{n}.json", plan), approved=True, attempt=attempt
        )
        store.move(job, JobState.TRAINING, attempt=attempt)
        group = {"id": "g1", "kind": "plan", "tasks": ["a", "b"], "state": "done", "step": 4, "num_steps": 4}
        store.put_groups(job, [group | {"losses": {"a": 0.5, "b": 0.25}}], attempt)
        value = {"group": "g1", "task": "a", "step": 4, "name": "val_score", "value": 0.875}
        store.add_metrics(job, [value], attempt)
        row = {"task": "a", "group": "g1", "baseline": None, "metric": "accuracy", "score": 0.75}
        store.put_results(job, [row | {"metrics": {"accuracy": 0.75}, "loss": 0.1, "num_test": 4}], attempt)
        content = "learned numbers"
        files.write_text("bundle/groups/g1/learned.txt", content)
        entry = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "bytes": len(content)}
        files.write_text("bundle/manifest.json", json.dumps({"files": {"groups/g1/learned.txt": entry}}))
        files.write_text("bundle/report.html", "<h1>Report</h1>")
        files.append_log("g1", ["one line"])
        if to != JobState.FAILED:
            store.move(job, JobState.PUBLISHING, attempt=attempt)
        store.move(job, to, attempt=attempt, reason=None if to == JobState.SUCCEEDED else "it broke")
        return job


@pytest.fixture
def live_service(tmp_path: Path) -> Iterator[LiveService]:
    home = tmp_path / "home"
    for task in ("a", "b"):
        for label in ("one", "two"):
            folder = home / "data" / task / label
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(b"not looked into")
    (home / "storage").mkdir()
    settings = Settings.model_validate({"home": home, "data_roots": [str(home / "data")], "poll_seconds": 0.01})
    control_plane = ControlPlane(settings, store=Store("sqlite://"), ray_jobs=FakeRayJobs())
    served = create_app(control_plane)
    server = uvicorn.Server(uvicorn.Config(served, log_level="warning"))
    spec = tmp_path / "job.yaml"
    spec.write_text(SPEC)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        key = control_plane.store.create_key("test")
        Connection(url=url, key=key).write(home)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield LiveService(url, key, control_plane, home, spec)
        finally:
            served.state.closing.set()
            server.should_exit = True
            thread.join()


@pytest.fixture
def run(live_service: LiveService) -> Callable[..., Result]:
    """`run("ls", "--json")`: the command, about the live service."""
    return lambda *arguments: CliRunner().invoke(app, ["--home", str(live_service.home), *arguments])


@pytest.fixture
def good(run: Callable[..., Result]) -> Callable[..., str]:
    """What the command prints; it must succeed."""

    def output(*arguments: str) -> str:
        result = run(*arguments)
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.output

    return output


@pytest.fixture
def admin(live_service: LiveService) -> str:
    """The key of an admin, which the commands find in the home."""
    key = live_service.store.create_key("boss", role=Role.ADMIN)
    Connection(url=live_service.url, key=key).write(live_service.home)
    return key


TINY_TASKS = ("art", "clipart", "photo")


class World:
    """An installation in a folder, and the jobs run in it."""

    def __init__(self, home: Path, base: Path, store: Store) -> None:
        self.settings = Settings(home=home, data_roots=[str(base)], poll_seconds=0.02, backoff_seconds=0.05)
        self.store = store
        store.create_schema()

    def submit(self, spec: JobSpec) -> str:
        return self.store.create_job(spec)[0].id

    def attempt(self, job: str, number: int | None = None, launcher: Launcher | None = None) -> JobState:
        launcher = launcher or InlineLauncher()
        try:
            return run_job(
                job,
                self.store.start_attempt(job) if number is None else number,
                store=self.store,
                files=self.files(job),
                launcher=launcher,
                settings=self.settings,
            )
        finally:
            launcher.close()

    def why(self, job: str) -> str | None:
        return self.store.get_job(job).reason

    def files(self, job: str) -> JobFiles:
        return JobFiles(self.settings.storage, job)

    def folder(self, job: str) -> Path:
        return Path(self.settings.storage) / "jobs" / job

    def learned(self, job: str) -> dict[str, dict[str, bytes]]:
        return {
            path.parent.name: {name: tensor.tobytes() for name, tensor in load_file(path).items()}
            for path in sorted(self.folder(job).glob("groups/*/learned.safetensors"))
        }


@pytest.fixture
def make_world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    return lambda store=None: World(tmp_path / "home", tmp_path_factory.getbasetemp(), store or Store("sqlite://"))


@pytest.fixture
def make_spec(tiny_clip_dir: Path, task_folders: Callable[..., Path]) -> Callable[..., JobSpec]:
    def make(**changes: Any) -> JobSpec:
        spec = {
            "name": "tiny",
            "backbone": {"model": f"local-dir:{tiny_clip_dir}"},
            "tasks": [
                {"name": name, "source": {"kind": "folder", "uri": str(task_folders(name))}, "split": {"shots": 4}}
                for name in TINY_TASKS
            ],
            "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 2},
            "profile": {"max_steps": 2, "snapshots": 2, "microbatches": 2, "microbatch_size": 2},
            "training": {"max_steps": 3, "batch_size": 4, "warmup_epochs": 0, "checkpoint_every": 2},
        }
        return parse_spec(spec | changes)

    return make
