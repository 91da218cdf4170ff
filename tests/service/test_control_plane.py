"""The control plane's start and stop, on a Ray that is faked; drivers are threads."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from service.control_plane import ControlPlane
from service.errors import ServiceRunning
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import Desired, JobState
from service.store import Store

SPEC = parse_spec("{name: office, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")


class Driver:
    """A driver that trains for ever, and heeds wishes if it is told to."""

    def __init__(self, store: Store, *, heeds: bool = True) -> None:
        self.store, self.heeds = store, heeds
        self.trains = threading.Event()
        self.let_go = threading.Event()
        self.last_write: bool | None = None

    def __call__(self, job_id: str, attempt: int) -> None:
        for state in (JobState.VALIDATING, JobState.GROUPING, JobState.TRAINING):
            self.store.move(job_id, state, attempt=attempt)
        self.trains.set()
        while not self.let_go.wait(0.01):
            wish = self.store.wish(job_id)
            if self.heeds and wish.desired == Desired.CANCEL:
                self.store.move(job_id, JobState.CANCELLED, attempt=attempt)
                return
            if self.heeds and wish.draining:
                self.store.move(job_id, JobState.QUEUED, attempt=attempt, reason="The service shuts down.")
                return
        self.last_write = self.store.move(job_id, JobState.PUBLISHING, attempt=attempt)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, poll_seconds=0.02, drain_seconds=0.3)


@pytest.fixture
def store(settings: Settings) -> Store:
    store = Store(settings.database_url)
    store.create_schema()
    return store


def test_a_second_control_plane_on_the_same_home_is_refused(settings: Settings, store: Store) -> None:
    first = ControlPlane(settings, store=store, ray_jobs=FakeRayJobs())
    first.start()
    try:
        with pytest.raises(ServiceRunning, match=f"process {os.getpid()}"):
            ControlPlane(settings, store=store, ray_jobs=FakeRayJobs()).start()
    finally:
        first.stop()
    again = ControlPlane(settings, store=store, ray_jobs=FakeRayJobs())
    again.start()
    again.stop()
    again.stop()


def test_a_clean_stop_drains_and_the_next_start_goes_on_without_counting_it(settings: Settings, store: Store) -> None:
    for attempt in range(1, settings.max_attempts + 2):
        driver = Driver(store)
        plane = ControlPlane(settings, store=store, ray_jobs=FakeRayJobs(driver))
        plane.start()
        job_id = store.create_job(SPEC, idempotency_key="the one")[0].id
        assert driver.trains.wait(10)
        plane.stop()
        job = store.get_job(job_id)
        assert (job.state, job.desired, job.attempt, job.failures) == (JobState.QUEUED, Desired.RUN, attempt, 0)
        assert job.reason == "The service shuts down."


def test_a_driver_too_slow_to_drain_loses_its_job_and_its_say(settings: Settings, store: Store) -> None:
    driver = Driver(store, heeds=False)
    ray_jobs = FakeRayJobs(driver)
    plane = ControlPlane(settings, store=store, ray_jobs=ray_jobs)
    plane.start()
    job_id = store.create_job(SPEC)[0].id
    assert driver.trains.wait(10)
    plane.stop()
    assert ray_jobs.status(f"{job_id}-a1") == "STOPPED"
    driver.let_go.set()
    for thread in threading.enumerate():
        if thread.name == f"{job_id}-a1":
            thread.join()
    assert driver.last_write is False
    assert (store.get_job(job_id).state, store.get_job(job_id).failures) == (JobState.QUEUED, 0)


def test_a_cancel_reaches_the_driver(settings: Settings, store: Store) -> None:
    driver = Driver(store)
    plane = ControlPlane(settings, store=store, ray_jobs=FakeRayJobs(driver))
    plane.start()
    try:
        job_id = store.create_job(SPEC)[0].id
        assert driver.trains.wait(10)
        store.set_desired(job_id, Desired.CANCEL)
        for thread in threading.enumerate():
            if thread.name == f"{job_id}-a1":
                thread.join()
    finally:
        plane.stop()
    assert store.get_job(job_id).state == JobState.CANCELLED


def test_only_the_control_plane_that_acts_drains(settings: Settings, store: Store, tmp_path: Path) -> None:
    driver = Driver(store)
    ray_jobs = FakeRayJobs(driver)
    plane = ControlPlane(settings, store=store, ray_jobs=ray_jobs)
    plane.start()
    job_id = store.create_job(SPEC)[0].id
    assert driver.trains.wait(10)
    idle = ControlPlane(settings.model_copy(update={"home": tmp_path / "idle"}), store=store, ray_jobs=ray_jobs)
    idle.start()
    idle.stop()
    assert not store.wish(job_id).draining
    assert (store.get_job(job_id).state, store.get_job(job_id).attempt) == (JobState.TRAINING, 1)
    plane.stop()
    assert store.get_job(job_id).state == JobState.QUEUED


def test_readiness_names_what_is_missing(settings: Settings, store: Store) -> None:
    ray_jobs = FakeRayJobs()
    plane = ControlPlane(settings, store=store, ray_jobs=ray_jobs)
    plane.start()
    try:
        assert plane.ready() == {"database": True, "storage": True, "ray": True}
        ray_jobs.reachable = False
        shutil.rmtree(settings.storage)
        ready = plane.ready()
        assert ready["database"] is True
        assert "does not answer" in str(ready["ray"])
        assert settings.storage in str(ready["storage"])
    finally:
        plane.stop()
