"""Whole jobs on storage that fails: classified, cleaned, not tried again blindly; and made again what is damaged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from service.artifacts import ARBITRATION, JobFiles, plan_path
from service.driver import run_job
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store
from tests.object_stores import ObjectStore
from workers import faults
from workers.arrays import write_arrays
from workers.failures import FailureClass, classify
from workers.launching.fake import FakeLauncher
from workers.launching.trials import Trial
from workers.storage import DRAFT, WRITES, write
from workers.training.checkpoint import save_checkpoint
from workers.training.results import RESULT, GroupResult

SPEC: dict[str, Any] = {
    "name": "stored",
    "backbone": {"model": "demo"},
    "tasks": [{"name": name, "source": {"kind": "demo", "task": name}} for name in ("squiggles", "plain", "noisy")],
    "profile": {"max_steps": 2, "snapshots": 2, "microbatches": 2, "max_microbatches": 0},
    "grouping": {"num_groups": 2, "arbitrate": True},
    "training": {"max_steps": 4, "batch_size": 4, "checkpoint_every": 2},
    "baselines": ["all"],
}
WRITERS: dict[str, Callable[[Path], object]] = {
    "commit": lambda folder: save_checkpoint(folder, {"weight": torch.zeros(2)}, {"step": 1}),
    "file": lambda folder: write(folder / "copied", b"content"),
    "snapshot": lambda folder: write_arrays(folder / "0.npz", {"gradients": np.zeros(2)}, "snapshot"),
    "trial": lambda folder: Trial(0, {}).write(folder),
}
"""What only real training, a search and a copy write, and by what."""
NO_JOB_ENDS = {"log", "pack", "probe"}
"""What a job does without; each has a law of its own."""
SITES = sorted({name.removeprefix("write.") for name in WRITES} - WRITERS.keys() - NO_JOB_ENDS)
"""All else: what the driver and fake workers write."""


@dataclass
class Home:
    """One installation, whose drivers run here."""

    settings: Settings
    store: Store

    def submit(self) -> str:
        return self.store.create_job(parse_spec(SPEC))[0].id

    def files(self, job: str) -> JobFiles:
        return JobFiles(self.settings.storage_place, job)

    def attempt(self, job: str, plan: str = "") -> JobState:
        faults.arm(plan)
        launcher = FakeLauncher(devices=2, sleep=lambda seconds: None)
        attempt = self.store.start_attempt(job)
        try:
            return run_job(
                job, attempt, store=self.store, files=self.files(job), launcher=launcher, settings=self.settings
            )
        finally:
            faults.arm("")
            launcher.close()

    def dies(self, job: str, plan: str) -> None:
        """An attempt that is killed, and found dead."""
        with pytest.raises(faults.Crash):
            self.attempt(job, plan)
        self.store.move(job, JobState.QUEUED, attempt=self.store.get_job(job).attempt)

    def learned(self, job: str) -> dict[str, bytes]:
        files = self.files(job)
        found = {info.path: files.path(info.path).read_bytes() for info in files.list() if "learned" in info.path}
        return {path: b"".join(each.tobytes() for each in load(content).values()) for path, content in found.items()}

    def events(self, job: str) -> list[str]:
        return [event.kind for event in self.store.events(job)]


@pytest.fixture
def open_home(tmp_path: Path) -> Iterator[Callable[..., Home]]:
    store = Store("sqlite://")
    store.create_schema()

    def make(**values: Any) -> Home:
        settings = {"home": tmp_path / "home", "poll_seconds": 0.001, "backoff_seconds": 0.001}
        return Home(Settings.model_validate(settings | values), store)

    yield make
    store.close()


def of(object_store: ObjectStore) -> dict[str, Any]:
    object_store.faults.clear()
    return {"storage": object_store.make_bucket(), "storage_options": object_store.options}


def test_a_job_leaves_the_same_files_in_an_object_store_as_in_a_folder(
    open_home: Callable[..., Home], object_store: ObjectStore
):
    folder, s3 = open_home(), open_home(**of(object_store))
    jobs = [(home, home.submit()) for home in (folder, s3)]
    assert [home.attempt(job) for home, job in jobs] == [JobState.SUCCEEDED] * 2
    paths = [[info.path for info in home.files(job).list()] for home, job in jobs]
    assert paths[0] == paths[1] and "bundle/manifest.json" in paths[0]
    assert folder.learned(jobs[0][1]) == s3.learned(jobs[1][1]) != {}


@pytest.mark.parametrize(
    ("site", "action"), [*((site, "full") for site in SITES), ("json", "io"), ("result", "denied")]
)
def test_a_full_disk_ends_the_job_in_words_once_and_leaves_only_whole_files(
    open_home: Callable[..., Home], site: str, action: str
):
    home = open_home()
    job = home.submit()
    assert home.attempt(job, f"write.{site}:{action}") in (JobState.FAILED, JobState.PARTIALLY_SUCCEEDED), (
        "a site that is never passed, or one that is tried again"
    )
    row = home.store.get_job(job)
    failures = {row.failure, *(group.failure for group in home.store.groups(job))}
    assert FailureClass.STORAGE in failures and failures <= {FailureClass.STORAGE, None}
    told = f"{row.reason} " + " ".join(group.reason or "" for group in home.store.groups(job))
    assert "could not be written" in told and "retry the job" in told
    files = home.files(job)
    assert not list(files.root.rglob(f"{DRAFT}*"))
    for info in files.list():
        assert files.is_whole(info.path)


@pytest.mark.parametrize("site", WRITERS)
def test_a_full_disk_is_told_in_words_by_every_other_writer_and_leaves_no_draft(tmp_path: Path, site: str):
    faults.arm(f"write.{site}:full")
    try:
        with pytest.raises(OSError, match="could not be written: No space left on device") as caught:
            WRITERS[site](tmp_path)
    finally:
        faults.arm("")
    assert classify(caught.value) is FailureClass.STORAGE
    assert not list(tmp_path.rglob(f"{DRAFT}*"))
    WRITERS[site](tmp_path)


def test_a_log_that_cannot_be_written_ends_no_job(open_home: Callable[..., Home]):
    home = open_home()
    job = home.submit()
    assert home.attempt(job, "write.log:full") is JobState.SUCCEEDED


DAMAGED = ("datasets.json", "profile/signatures.npz", plan_path(0), "plans/0-review.json")


@pytest.mark.parametrize("path", DAMAGED)
def test_a_damaged_artifact_is_told_and_made_again(open_home: Callable[..., Home], path: str):
    home = open_home()
    whole, job = home.submit(), home.submit()
    home.attempt(whole)
    home.dies(job, "driver.results.landed:crash")
    files = home.files(job)
    content = files.path(path).read_bytes()
    files.path(path).write_bytes(content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]))
    assert home.attempt(job) is JobState.SUCCEEDED
    assert "artifact_damaged" in home.events(job)
    assert files.is_whole(path)
    assert home.learned(job) == home.learned(whole) != {}


def test_what_a_test_of_groups_showed_may_be_damaged_once_it_is_decided_and_the_report_says_so(
    open_home: Callable[..., Home],
):
    home = open_home()
    job = home.submit()
    home.dies(job, "driver.results.landed:crash")
    files = home.files(job)
    place, plans = files.path(ARBITRATION), home.store.plans(job)
    place.write_bytes(place.read_bytes()[:-1])
    assert home.attempt(job) is JobState.SUCCEEDED, home.store.get_job(job).reason
    assert home.store.plans(job) == plans and plans[-1].outline.origin == "arbitrated"
    (told,) = [event.message for event in home.store.events(job) if event.kind == "artifact_damaged"]
    assert told.startswith(f"{ARBITRATION} is damaged") and told.endswith("The bundle and its report are without it.")
    report = files.read_text("bundle/report.html")
    assert f"{ARBITRATION} is damaged" in report and 'id="arbitration"' not in report
    assert not files.exists(f"bundle/{ARBITRATION}")


def test_a_damaged_result_is_told_and_trained_again(open_home: Callable[..., Home]):
    home = open_home()
    job = home.submit()
    home.dies(job, "driver.bundle.writes:crash")
    place = next(home.files(job).root.glob(f"groups/*/{RESULT}"))
    place.write_bytes(place.read_bytes()[:-10])
    assert home.attempt(job) is JobState.SUCCEEDED
    assert "result_damaged" in home.events(job) and GroupResult.read(place.parent) is not None
