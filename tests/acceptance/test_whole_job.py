"""A user's story on the real parts: a service with its own Ray, a job over REST, its bundle, nothing left behind."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.calls import ApiError
from service.client import Cohort
from tests.acceptance.conftest import Service, processes_of, wait_until
from workers.bundle import load_bundle

pytestmark = pytest.mark.ray


def _job(tiny_clip_dir: Path, folders: dict[str, Path], **changes: object) -> dict:
    return {
        "name": "acceptance",
        "backbone": {"model": f"local-dir:{tiny_clip_dir}"},
        "tasks": [
            {"name": name, "source": {"kind": "folder", "uri": str(folder)}, "split": {"shots": 6, "val_shots": 2}}
            for name, folder in folders.items()
        ],
        "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 4]},
        "profile": {"max_steps": 6, "snapshots": 2, "microbatches": 2, "microbatch_size": 4},
        "training": {"max_steps": 8, "batch_size": 8, "augment": None},
        "baselines": ["zero_shot", "alone", "all"],
    } | changes


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Three tasks of two or three classes, ten images each, under one root."""
    rng = np.random.default_rng(0)
    made = {}
    for name, classes in {
        "art": ("red", "green", "blue"),
        "clipart": ("red", "green", "blue"),
        "pets": ("cat", "dog"),
    }.items():
        made[name] = tmp_path / "data" / name
        for number, label in enumerate(classes):
            (made[name] / label).mkdir(parents=True)
            for index in range(10):
                pixels = rng.integers(0, 120, size=(20, 24, 3), dtype=np.uint8)
                pixels[..., number % 3] += 120
                Image.fromarray(pixels).save(made[name] / label / f"{index}.png")
    return made


@pytest.fixture
def root(tmp_path: Path, tiny_clip_dir: Path) -> Path:
    """A data root that holds the tasks and, by a copy, the backbone."""
    (tmp_path / "data" / "clip").mkdir(parents=True)
    for file in tiny_clip_dir.iterdir():
        (tmp_path / "data" / "clip" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "data"


def test_a_job_goes_the_whole_way_and_its_bundle_predicts(
    serve: Callable[..., Service], root: Path, folders: dict[str, Path], tmp_path: Path
):
    service = serve(root)
    client = service.client
    spec = _job(root / "clip", folders)
    estimate = client.estimate(spec)
    job = client.submit(spec, idempotency_key="once")
    assert client.submit(spec, idempotency_key="once").id == job.id
    events = list(client.watch(job.id))
    job = client.wait(job.id, timeout=240)
    assert job.state == "SUCCEEDED", (job.state, job.reason, client.log(job.id, "driver"))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))

    estimate = client.wait_for_estimate(estimate.id, timeout=240)
    assert estimate.forecast is not None, (estimate.state, estimate.reason)
    assert estimate.forecast.memory.fits and estimate.forecast.workers == 2 and not estimate.forecast.problems
    assert estimate.forecast.seconds is not None and 0 < estimate.forecast.seconds.low < estimate.forecast.seconds.high
    assert [found.id for found in client.jobs()] == [job.id]

    results = client.results(job.id)
    assert {row.task for row in results.results} == set(folders)
    similarity = client.similarity(job.id)
    assert np.array(similarity.similarity).shape == (3, 3)
    groups = client.groups(job.id)
    planned = [group for group in groups.groups if group.kind == "plan"]
    assert sorted(task for group in planned for task in group.tasks) == sorted(folders)
    assert all(group.state == "done" for group in groups.groups)
    assert "<html" in client.report(job.id) and "acceptance" in client.report(job.id)

    bundle = load_bundle(client.pull(job.id, tmp_path / "bundle"))
    bundle.verify()
    named = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["files"]
    for name, described in named.items():
        assert sha256((tmp_path / "bundle" / name).read_bytes()).hexdigest() == described["sha256"]
    predicted = bundle.classifier("pets").predict(sorted((folders["pets"] / "cat").glob("*.png")))
    assert set(predicted) <= {"cat", "dog"} and len(predicted) == 10

    with pytest.raises(ApiError) as conflict:
        client.cancel(job.id)
    assert conflict.value.status == 409
    assert service.stop() == 0
    wait_until(lambda: not processes_of(service.home), seconds=20, what="everything that was started has ended")


def _steps(client: Cohort, job: str) -> int:
    """Of the plan's group that is furthest."""
    return max((group.step for group in client.groups(job).groups if group.kind == "plan"), default=0)


def test_cancel_and_pause_are_honoured_and_a_killed_service_goes_on(
    serve: Callable[..., Service], root: Path, folders: dict[str, Path]
):
    service = serve(root)
    client = service.client
    long = {"max_steps": 100_000, "batch_size": 8, "augment": None, "checkpoint_every": 20}
    cancelled = client.submit(_job(root / "clip", folders, training=long)).id
    wait_until(lambda: client.job(cancelled).state == "TRAINING", seconds=120, what="it trains")
    wait_until(lambda: _steps(client, cancelled) > 0, seconds=60, what="a step was taken")
    client.cancel(cancelled)
    wait_until(lambda: client.job(cancelled).state == "CANCELLED", seconds=15, what="the cancel is honoured")
    assert client.cancel(cancelled).state == "CANCELLED"
    assert not any(artifact.path.startswith("bundle/") for artifact in client.artifacts(cancelled))

    moderate = {"max_steps": 2000, "batch_size": 8, "augment": None, "checkpoint_every": 20}
    job = client.submit(_job(root / "clip", folders, training=moderate, baselines=[])).id
    wait_until(lambda: _steps(client, job) > 0, seconds=120, what="a step was taken")
    client.pause(job)
    wait_until(lambda: client.job(job).state == "PAUSED", seconds=15, what="the pause is honoured")
    assert 0 < _steps(client, job) < moderate["max_steps"]
    client.resume(job)
    wait_until(lambda: client.job(job).state == "TRAINING", seconds=60, what="it trains again")

    service.kill()
    again = serve(root)
    done = again.client.wait(job, timeout=240)
    assert done.state == "SUCCEEDED", (done.state, done.reason)
    assert again.stop() == 0
    wait_until(lambda: not processes_of(again.home), seconds=20, what="everything that was started has ended")
