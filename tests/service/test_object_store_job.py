"""A whole small job that really trains, with its files in an object store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service.artifacts import JobFiles
from service.client import Cohort
from service.control_plane import ControlPlane
from service.driver import run_job
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store
from tests.api.conftest import served
from tests.object_stores import SECRET, ObjectStore
from workers.bundle import load_bundle
from workers.launching.inline import InlineLauncher
from workers.storage import files_below

TASKS = ("art", "photo")


def test_a_job_on_an_object_store_leaves_a_bundle_that_predicts_as_that_of_a_folder(
    tmp_path: Path, tmp_path_factory: Any, object_store: ObjectStore, task_folders: Callable[..., Path]
) -> None:
    spec = {
        "name": "stored",
        "backbone": {"model": "demo"},
        "tasks": [
            {"name": name, "source": {"kind": "folder", "uri": str(task_folders(name))}, "split": {"shots": 2}}
            for name in TASKS
        ],
        "method": {"kind": "mmap", "num_tokens": 2, "source_shape": [2, 2], "depth": 2},
        "profile": {"max_steps": 1, "snapshots": 1, "microbatches": 2, "microbatch_size": 2},
        "training": {"max_steps": 2, "batch_size": 2, "warmup_epochs": 0, "checkpoint_every": 1},
        "baselines": [],
    }
    object_store.faults.clear()
    bucket = {"storage": object_store.make_bucket(), "storage_options": object_store.options}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    store, launcher, logits = Store("sqlite://"), InlineLauncher(), {}
    store.create_schema()
    for kind, storage in (("folder", {}), ("s3", bucket)):
        values = {"home": tmp_path / kind, "data_roots": [str(tmp_path_factory.getbasetemp())], "poll_seconds": 0.02}
        settings = Settings.model_validate(values | storage)
        job = store.create_job(parse_spec(spec))[0].id
        files = JobFiles(settings.storage_place, job)
        ended = run_job(job, store.start_attempt(job), store=store, files=files, launcher=launcher, settings=settings)
        assert ended is JobState.SUCCEEDED, store.get_job(job).reason
        control_plane = ControlPlane(settings, store=store, ray_jobs=FakeRayJobs())
        with served(control_plane) as url, Cohort(url, store.create_key(kind)) as client:
            bundle = load_bundle(client.pull(job, tmp_path / f"{kind}-pulled"))
        bundle.verify()
        logits[kind] = {task: bundle.classifier(task).logits([image]) for task in bundle.tasks}
    launcher.close()
    assert set(logits["s3"]) == set(TASKS)
    for task in TASKS:
        assert np.array_equal(logits["s3"][task], logits["folder"][task])
    kept = [*(tmp_path / "s3").rglob("*"), *(tmp_path / "s3-pulled").rglob("*")]
    assert not any(SECRET.encode() in path.read_bytes() for path in kept if path.is_file())
    place = JobFiles(settings.storage_place, job).root
    assert not any(SECRET.encode() in (place / found.path).read_bytes() for found in files_below(place))
    store.close()
