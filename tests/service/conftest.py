"""A service on loopback without Ray: the real API over a store in memory, with drivers that only pretend."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from api.app import create_app
from service.artifacts import JobFiles
from service.connection import Connection
from service.control_plane import ControlPlane
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store

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
        files.write_text("plans/0.json", json.dumps(_PLAN))
        store.put_plan(job, 0, True, attempt)
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
    app = create_app(control_plane)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
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
            app.state.closing.set()
            server.should_exit = True
            thread.join()
