"""Laws of leases: one holder at a time, and whoever lost its turn writes nothing any more."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.clock import FakeClock
from service.coordinator import Coordinator
from service.errors import StaleLease
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import Desired, JobState
from service.store import Store
from tests.databases import Stores, shared

SPEC = parse_spec("{name: office, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(make_store: Stores, clock: FakeClock) -> Store:
    found = make_store()
    found.now = clock.time
    return found


def test_a_lease_has_one_holder_until_it_runs_out(store: Store, clock: FakeClock) -> None:
    token = store.hold_lease("a", 30)
    assert token is not None
    assert store.hold_lease("b", 30) is None
    clock.advance(29)
    assert store.hold_lease("a", 30, token) == token  # renewed
    clock.advance(29)
    assert store.hold_lease("b", 30) is None
    clock.advance(2)
    later = store.hold_lease("b", 30)
    assert later is not None and later > token
    assert store.hold_lease("a", 30, token) is None


def test_a_lease_that_is_given_back_is_free_at_once_but_only_its_holder_can(store: Store) -> None:
    first = store.hold_lease("a", 30)
    assert first is not None
    store.release_lease(first)
    second = store.hold_lease("b", 30)
    assert second is not None
    store.release_lease(first)
    assert store.hold_lease("a", 30, first) is None


def test_a_process_started_again_takes_over_from_its_predecessor_which_is_fenced_off(store: Store) -> None:
    before = store.hold_lease("home", 30)
    after = store.hold_lease("home", 30)
    assert before is not None and after is not None and after > before
    job = store.create_job(SPEC)[0].id
    with pytest.raises(StaleLease, match="nothing was written"):
        store.start_attempt(job, fence=before)
    with pytest.raises(StaleLease):
        store.move(job, JobState.CANCELLED, attempt=None, fence=before)
    assert (store.get_job(job).state, store.get_job(job).attempt) == (JobState.QUEUED, 0)
    assert store.start_attempt(job, fence=after) == 1


@shared
def test_many_ask_at_once_and_one_gets_it(make_store: Stores) -> None:
    stores = [make_store() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda n: stores[n].hold_lease(f"holder {n}", 30), range(8)))
    assert sorted(tokens, key=str) == [1] + [None] * 7


@pytest.fixture
def coordinators(store: Store, clock: FakeClock, tmp_path: Path) -> list[Coordinator]:
    ray = FakeRayJobs()
    homes = [Settings(home=tmp_path / name, lease_seconds=30.0) for name in ("one", "two")]
    return [Coordinator(store, ray, settings, clock=clock) for settings in homes]


def test_of_two_control_planes_one_acts_and_the_other_takes_over_when_it_falls_silent(
    store: Store, clock: FakeClock, coordinators: list[Coordinator]
) -> None:
    one, two = coordinators
    job = store.create_job(SPEC)[0].id
    one.tick()
    assert store.get_job(job).state == JobState.STARTING
    store.set_desired(job, Desired.CANCEL)
    waiting = store.create_job(SPEC)[0].id
    two.tick()
    assert store.get_job(waiting).state == JobState.QUEUED
    clock.advance(31)  # the first is stopped in the middle of its look
    two.tick()
    assert store.get_job(waiting).state == JobState.STARTING
    with pytest.raises(StaleLease):  # it wakes up, and goes on with what it saw before
        one._move(store.get_job(waiting), JobState.FAILED, reason="a ghost")
    one.tick()
    assert store.get_job(waiting).state == JobState.STARTING


def test_a_control_plane_that_ends_cleanly_lets_the_other_act_at_once(
    store: Store, coordinators: list[Coordinator]
) -> None:
    one, two = coordinators
    one.tick()
    job = store.create_job(SPEC)[0].id
    one.rest()
    two.tick()
    assert store.get_job(job).state == JobState.STARTING
