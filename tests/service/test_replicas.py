"""Several control planes on one database: all answer, exactly one acts for every job, whoever dies or sleeps."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from service.control_plane import ControlPlane
from service.coordinator import Coordinator
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import ALLOWED_MOVES, JobState
from service.store import Store
from tests.databases import Stores, shared

SPEC = parse_spec("{name: office, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")
LEASE_SECONDS = 0.5
STAGES = ("VALIDATING", "PROFILING", "GROUPING", "TRAINING", "PUBLISHING", "SUCCEEDED")


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return condition()


def settings(home: Path) -> Settings:
    return Settings.model_validate(
        {
            "home": home,
            "poll_seconds": 0.01,
            "lease_seconds": LEASE_SECONDS,
            "max_running_jobs": 3,
            "ray_address": "http://the-same-cluster",
        }
    )


class Drivers:
    """Drivers that run: each walks its job through the stages, and notes that it began."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.began: Counter[tuple[str, int]] = Counter()

    def __call__(self, job: str, attempt: int) -> None:
        self.began[job, attempt] += 1
        for state in STAGES:
            threading.Event().wait(random.uniform(0.0, 0.02))
            assert self.store.move(job, JobState(state), attempt=attempt)


class Replica:
    """A control plane's loop, which can be killed: then it takes no leave."""

    def __init__(self, store: Store, ray: FakeRayJobs, home: Path) -> None:
        self.coordinator = Coordinator(store, ray, settings(home))
        self.coordinator.rest = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.coordinator.run, args=(self._stop,))
        self._thread.start()

    def kill(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def drivers(make_store: Stores) -> Drivers:
    return Drivers(make_store())


def check(store: Store, jobs: list[str], drivers: Drivers) -> None:
    """Every job ran once, in one attempt, through legal moves, with no event lost or told twice."""
    for job in jobs:
        events = store.events(job)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        states = [JobState(event.data["to"]) for event in events if event.kind == "state"]
        assert all(after in ALLOWED_MOVES[before] for before, after in pairwise(states))
        assert states == ["QUEUED", "STARTING", *STAGES]
    assert drivers.began == Counter({(job, 1): 1 for job in jobs})


def finished(store: Store) -> bool:
    return all(job.is_finished for job in store.list_jobs(limit=500)[0])


@shared
def test_exactly_one_acts_for_every_job_however_often_the_one_that_acts_is_killed(
    make_store: Stores, drivers: Drivers, tmp_path: Path
) -> None:
    store, ray, chance = make_store(), FakeRayJobs(drivers), random.Random(1)
    homes = [tmp_path / name for name in ("one", "two", "three")]
    replicas = [Replica(make_store(), ray, home) for home in homes]
    jobs = [store.create_job(SPEC, tenant=chance.choice("abc"))[0].id for _ in range(40)]
    kills = 0
    while not finished(store) or kills < 12:
        threading.Event().wait(chance.uniform(0.0, 0.2))
        acting = next((index for index, each in enumerate(replicas) if each.coordinator.fence is not None), None)
        if acting is not None:
            replicas[acting].kill()
            replicas[acting] = Replica(make_store(), ray, homes[acting])
            kills += 1
    for each in replicas:
        each.kill()
    check(store, jobs, drivers)


class Sleepy(FakeRayJobs):
    """Whoever asks after a driver while `asleep` is set does not hear the answer before it wakes up."""

    def __init__(self, run: Callable[[str, int], None]) -> None:
        super().__init__(run)
        self.asleep: threading.Thread | None = None
        self.awake = threading.Event()

    def alive(self) -> bool:
        if self.asleep is threading.current_thread():
            self.awake.wait()
        return super().alive()


@shared
def test_one_that_sleeps_through_its_lease_in_the_middle_of_a_look_does_nothing_twice(
    make_store: Stores, drivers: Drivers, tmp_path: Path
) -> None:
    store, ray = make_store(), Sleepy(drivers)
    replicas = [Replica(make_store(), ray, tmp_path / name) for name in ("one", "two")]

    def acting() -> Replica | None:
        return next((each for each in replicas if each.coordinator.fence is not None and each is not sleeper), None)

    jobs: list[str] = []
    for _ in range(5):
        sleeper = None
        assert eventually(lambda: acting() is not None)
        sleeper = acting()
        assert sleeper is not None
        ray.awake.clear()
        ray.asleep = sleeper._thread
        jobs += [store.create_job(SPEC)[0].id for _ in range(4)]
        assert eventually(lambda: acting() is not None and finished(store))
        jobs += [store.create_job(SPEC)[0].id for _ in range(4)]
        ray.asleep = None
        ray.awake.set()
        assert eventually(lambda: finished(store))
    for each in replicas:
        each.kill()
    check(store, jobs, drivers)


@pytest.fixture
def planes(make_store: Stores, drivers: Drivers, tmp_path: Path) -> Iterator[list[ControlPlane]]:
    ray = FakeRayJobs(drivers)
    found = [ControlPlane(settings(tmp_path / name), store=make_store(), ray_jobs=ray) for name in ("one", "two")]
    for plane in found:
        plane.start()
    yield found
    for plane in found:
        plane.stop()


@shared
def test_control_planes_with_homes_of_their_own_share_a_database_and_take_each_others_place(
    planes: list[ControlPlane], drivers: Drivers
) -> None:
    one, two = planes
    jobs = [(one, two)[number % 2].store.create_job(SPEC)[0].id for number in range(12)]
    assert eventually(lambda: len(drivers.began) > 2)
    one.stop()
    assert two.ready()["database"] is True
    assert two.store.get_job(jobs[0]).tenant == "default"
    assert eventually(lambda: finished(two.store))
    check(two.store, jobs, drivers)
