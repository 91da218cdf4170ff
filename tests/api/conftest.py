"""A service without Ray: a store in memory, drivers that only pretend, files in a temporary folder."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.app import create_app
from grouping.plan import trivial_plan
from service.artifacts import JobFiles
from service.control_plane import ControlPlane
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store

SPEC = """
name: two-digits
backbone: {model: demo}
tasks:
  - {name: a, source: {kind: folder, uri: a}}
  - {name: b, source: {kind: folder, uri: b}}
"""
YAML = {"Content-Type": "application/yaml"}

PLAN = {
    "groups": [{"id": "g1", "tasks": ["a", "b"], "cohesion": 0.5, "reason": "a and b agree."}],
    "tasks": [
        {
            "task": "a",
            "group": "g1",
            "nearest": [{"task": "b", "similarity": 0.5}],
            "margin": None,
            "sentence": "near b",
        },
        {
            "task": "b",
            "group": "g1",
            "nearest": [{"task": "a", "similarity": 0.5}],
            "margin": None,
            "sentence": "near a",
        },
    ],
    "order": ["a", "b"],
    "task_names": ["a", "b"],
    "similarity": [[1.0, 0.5], [0.5, 1.0]],
    "origin": "gradients",
}


def make_control_plane(home: Path, **settings: object) -> ControlPlane:
    (home / "data").mkdir()
    for task in ("a", "b"):
        for label in ("one", "two"):
            (home / "data" / task / label).mkdir(parents=True)
            (home / "data" / task / label / "0.png").write_bytes(b"not looked into")
    values = {"home": home, "data_roots": [str(home / "data")], "poll_seconds": 0.01, **settings}
    return ControlPlane(Settings.model_validate(values), store=Store("sqlite://"), ray_jobs=FakeRayJobs())


def run_to_the_end(control_plane: ControlPlane, job_id: str | None = None) -> str:
    """Plays a driver: the job goes through every stage and leaves rows and files.  Returns its id."""
    store = control_plane.store
    job = job_id or store.create_job(parse_spec(SPEC))[0].id
    attempt = store.start_attempt(job)
    for state in (JobState.VALIDATING, JobState.PROFILING, JobState.GROUPING):
        store.move(job, state, attempt=attempt)
    files = JobFiles(control_plane.settings.storage_place, job)
    outline = trivial_plan(["a", "b"], "all").outline()
    plan = json.dumps(PLAN)
    store.add_plan(job, outline, lambda n: files.write_text(f"plans/{n}.json", plan), approved=True, attempt=attempt)
    store.move(job, JobState.TRAINING, attempt=attempt)
    store.put_groups(
        job,
        [
            {"id": "zero-shot", "kind": "zero_shot", "tasks": ["a", "b"], "state": "done"},
            {"id": "g1", "kind": "plan", "tasks": ["a", "b"], "state": "done", "step": 4, "num_steps": 4},
        ],
        attempt,
    )
    rows = [{"group": "g1", "task": "a", "step": step, "name": "loss", "value": 1 / step} for step in (1, 2, 3, 4)]
    store.add_metrics(job, rows, attempt)
    results = [
        {"task": task, "group": group, "baseline": baseline, "metric": "accuracy", "score": score}
        | {"metrics": {"accuracy": score}, "loss": 0.1, "num_test": 10}
        for task in ("a", "b")
        for group, baseline, score in (("zero-shot", "zero_shot", 0.5), ("g1", None, 0.75))
    ]
    store.put_results(job, results, attempt)
    files.append_log("g1", ["first line", "second line"])
    files.write_text("bundle/report.html", "<h1>Report</h1>")
    files.write_text("bundle/data.txt", "0123456789")
    store.move(job, JobState.PUBLISHING, attempt=attempt)
    store.move(job, JobState.SUCCEEDED, attempt=attempt)
    return job


@contextmanager
def served(control_plane: ControlPlane) -> Iterator[str]:
    app = create_app(control_plane)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        app.state.closing.set()
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def control_plane(tmp_path: Path) -> ControlPlane:
    return make_control_plane(tmp_path)


@pytest.fixture
def finish(control_plane: ControlPlane) -> Callable[[], str]:
    """`finish()` plays a job from its submission to SUCCEEDED and returns its id."""
    return lambda: run_to_the_end(control_plane)


@pytest.fixture
def key(control_plane: ControlPlane) -> str:
    return control_plane.store.create_key("test")


@pytest.fixture
def api(control_plane: ControlPlane, key: str) -> Iterator[TestClient]:
    """A client with a good key."""
    with TestClient(create_app(control_plane), headers={"Authorization": f"Bearer {key}"}) as client:
        yield client
