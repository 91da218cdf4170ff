"""What the coordinator counts, as Prometheus reads it."""

from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.clock import FakeClock
from service.coordinator import Coordinator
from service.errors import DatabaseUnavailable
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import Desired, JobState
from service.store import Store
from service.telemetry import Telemetry
from workers.failures import FailureClass

SPEC = parse_spec("name: x\nbackbone: {model: demo}\ntasks:\n  - {name: a, source: {kind: demo, task: digits-ink}}\n")


class World:
    """A store, a coordinator, and the time."""

    def __init__(self, home: Path) -> None:
        self.clock = FakeClock()
        self.store = Store("sqlite://", now=self.clock.time)
        self.telemetry = Telemetry(self.store)
        self.ray = FakeRayJobs()
        settings = Settings(home=home, max_running_jobs=1, backoff_seconds=0.0)
        self.coordinator = Coordinator(self.store, self.ray, settings, self.clock, telemetry=self.telemetry)

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.coordinator.tick()

    def value(self, name: str, **labels: str) -> float:
        text = generate_latest(self.telemetry.registry).decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_wait_of_a_job_is_counted_from_when_it_could_have_started(world: World) -> None:
    first, second = (world.store.create_job(SPEC)[0].id for _ in range(2))
    world.tick(2)
    assert (world.value("cohort_queue_seconds_count"), world.value("cohort_queue_seconds_sum")) == (1, 2)
    world.clock.advance(28)
    assert world.value("cohort_queue_oldest_seconds") == 30
    world.store.set_desired(first, Desired.CANCEL, at_once=True)
    world.tick()
    world.tick()
    assert world.store.get_job(second).state is JobState.STARTING
    assert (world.value("cohort_queue_seconds_count"), world.value("cohort_queue_seconds_sum")) == (2, 32)
    assert world.value("cohort_queue_oldest_seconds") == 0


def test_every_way_to_end_is_counted_from_zero_so_that_the_first_one_is_an_increase(world: World) -> None:
    told = generate_latest(world.telemetry.registry).decode()
    for failure in FailureClass:
        assert f'cohort_attempts_ended_total{{failure="{failure}",state="FAILED"}} 0.0' in told


def test_attempts_are_counted_by_how_they_ended_whoever_ended_them(world: World) -> None:
    job = world.store.create_job(SPEC)[0].id
    world.tick()
    world.ray.finish(f"{job}-a1", "FAILED", "ray.exceptions.OutOfMemoryError: killed")
    world.tick()  # the coordinator finds it dead, and starts the next at once
    assert world.store.get_job(job).attempt == 2
    assert world.value("cohort_attempts_ended_total", state="QUEUED", failure="out_of_memory") == 1
    world.store.move(job, JobState.VALIDATING, attempt=2)
    world.store.move(job, JobState.FAILED, attempt=2, failure=FailureClass.DATA)  # as its driver does
    world.tick()
    world.tick()
    assert world.value("cohort_attempts_ended_total", state="FAILED", failure="data") == 1
    assert world.value("cohort_attempts_ended_total") == 2


def test_transactions_are_timed_and_those_without_an_answer_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.value("cohort_store_seconds_count", kind="write")
    world.store.create_job(SPEC)
    assert world.value("cohort_store_seconds_count", kind="write") == before + 1

    def refuse() -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(world.store, "_connected", refuse)
    with pytest.raises(DatabaseUnavailable):
        world.store.ping()
    text = generate_latest(world.telemetry.registry).decode()  # the numbers come although the jobs cannot be counted
    assert "cohort_jobs{" not in text
    assert 'cohort_store_failures_total{kind="read"}' in text
    assert "cohort_reconcile_lag_seconds" in text
