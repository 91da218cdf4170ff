"""Laws of quotas in the database, and of the line that is read from it, on every kind of database."""

from pathlib import Path

import pytest

from grouping.plan import trivial_plan
from service.errors import JobFinished, QuotaExceeded
from service.keeper import Keeper
from service.queue import Quota
from service.queue_views import LOOK_SECONDS, QueueViews
from service.records import Job
from service.settings import Settings
from service.spec import parse_spec
from service.states import Desired, JobState
from service.store import Store
from service.wire_queue import QueuePlace
from tests.databases import Stores

SPEC = parse_spec("{name: office, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")


@pytest.fixture
def store(make_store: Stores) -> Store:
    return make_store()


def submit(store: Store, tenant: str = "a", priority: int = 0) -> str:
    return store.create_job(SPEC.model_copy(update={"priority": priority}), tenant=tenant)[0].id


def test_a_quota_is_set_whole_and_lifted_as_often_as_one_likes(store: Store) -> None:
    assert store.quota("a") == Quota()
    store.set_quota("a", max_running_jobs=2, max_priority=5)
    store.set_quota("a", max_devices=3)
    assert store.quotas() == {"a": Quota(max_devices=3)}
    store.delete_quota("a")
    store.delete_quota("a")
    assert (store.quotas(), store.quota("a")) == ({}, Quota())


def test_what_runs_and_what_lies_there_is_counted_for_its_tenant_alone(store: Store) -> None:
    first, second, other = submit(store), submit(store), submit(store, "b")
    store.start_attempt(first, devices=3)
    store.start_attempt(second)
    store.start_attempt(other, devices=5)
    store.set_stored(first, 10**12, 0.0)
    store.set_stored(second, 1, 0.0)
    usage = store.usage("a")
    assert (usage.running_jobs, usage.devices, usage.storage_bytes) == (2, 3, 10**12 + 1)
    store.move(first, JobState.PAUSED, attempt=1)
    assert (store.usage("a").running_jobs, store.usage("a").devices) == (1, 0)


def test_a_tenant_whose_files_take_what_they_may_submits_no_more_but_gets_earlier_answers_again(store: Store) -> None:
    store.set_quota("a", max_storage_bytes=100)
    job, _ = store.create_job(SPEC, tenant="a", idempotency_key="once")
    store.set_stored(job.id, 100, 0.0)
    with pytest.raises(QuotaExceeded, match="take 100 bytes, and its quota is 100"):
        submit(store)
    assert store.create_job(SPEC, tenant="a", idempotency_key="once") == (store.get_job(job.id), False)
    assert store.create_job(SPEC, tenant="a", purpose="estimate")[1]  # it leaves nothing that lasts
    submit(store, "b")
    store.set_stored(job.id, 99, 0.0)
    submit(store)


def test_no_job_has_a_priority_above_its_tenants(store: Store) -> None:
    store.set_quota("a", max_priority=0)
    with pytest.raises(QuotaExceeded, match="priority=1"):
        submit(store, priority=1)
    job = submit(store, priority=-3)
    with pytest.raises(QuotaExceeded):
        store.set_priority(job, 1)
    assert store.set_priority(job, 0).priority == 0


def test_a_priority_is_changed_once_with_one_event_and_never_of_a_finished_job(store: Store) -> None:
    job = submit(store)
    for _ in range(2):
        assert store.set_priority(job, 7).priority == 7
    assert [event.data for event in store.events(job) if event.kind == "priority"] == [{"from": 0, "to": 7}]
    store.move(job, JobState.CANCELLED, attempt=None)
    with pytest.raises(JobFinished):
        store.set_priority(job, 8)


def test_files_are_measured_when_they_may_have_grown_and_not_again_and_again(store: Store, tmp_path: Path) -> None:
    keeper = Keeper(store, Settings(home=tmp_path))
    waits, runs, done = (submit(store) for _ in range(3))
    for job in (runs, done):
        store.start_attempt(job)
        folder = tmp_path / "storage" / "jobs" / job / "logs"
        folder.mkdir(parents=True)
        (folder / "one.log").write_bytes(b"x" * 10)
    store.move(done, JobState.FAILED, attempt=1)
    now = store.now() + 1
    assert store.jobs_to_measure(now) == [runs, done]
    keeper.measure(now)
    assert [store.get_job(job).storage_bytes for job in (waits, runs, done)] == [0, 10, 10]
    assert store.jobs_to_measure(now + 59) == []
    assert store.jobs_to_measure(now + 61) == [runs]


def test_a_sign_of_life_counts_only_for_the_attempt_that_owns_the_job(store: Store) -> None:
    job = submit(store)
    store.start_attempt(job)
    store.seen(job, 2)
    assert store.get_job(job).seen_at is None
    store.seen(job, 1)
    assert store.get_job(job).seen_at is not None
    store.move(job, JobState.QUEUED, attempt=1)
    assert store.start_attempt(job) == 2
    assert store.get_job(job).seen_at is None


class Queue:
    def __init__(self, store: Store, home: Path) -> None:
        self.store, self.time = store, store.now()
        store.now = lambda: self.time
        self.views = QueueViews(store, Settings(home=home, max_running_jobs=1), steady=lambda: self.time)

    def look(self, job: str) -> QueuePlace | None:
        self.time += LOOK_SECONDS
        return self.views.place(self.store.get_job(job), approved=False)

    def place(self, job: str) -> QueuePlace:
        place = self.look(job)
        assert place is not None
        return place

    def ran(self, seconds: float) -> Job:
        job = submit(self.store)
        self.store.start_attempt(job)
        self.time += seconds
        for state in ("VALIDATING", "GROUPING", "TRAINING", "PUBLISHING", "SUCCEEDED"):
            self.store.move(job, JobState(state), attempt=1)
        return self.store.get_job(job)


@pytest.fixture
def queue(store: Store, tmp_path: Path) -> Queue:
    return Queue(store, tmp_path)


def test_a_waiting_job_is_told_its_place_its_reason_and_about_when_it_starts(queue: Queue) -> None:
    for seconds in (100, 300, 1000):
        queue.ran(seconds)
    running, first, second = (submit(queue.store) for _ in range(3))
    queue.store.start_attempt(running)
    queue.time += 60 - 2 * LOOK_SECONDS
    queue.store.set_waits({first: "Room: 1 of 1 jobs run on this service."})
    one, two = queue.place(first), queue.place(second)
    assert one.waits_for == "Room: 1 of 1 jobs run on this service."
    assert (one.position, two.position) == (1, 2)
    assert one.starts_at is not None and two.starts_at is not None
    assert one.starts_at.timestamp() == pytest.approx(queue.time + 240, abs=3)
    assert two.starts_at.timestamp() == pytest.approx(queue.time + 540, abs=3)
    assert queue.look(running) is None


def test_nobody_guesses_where_nothing_tells(queue: Queue) -> None:
    job = submit(queue.store)
    assert (queue.place(job).position, queue.place(job).starts_at) == (1, None)


def test_a_job_that_cannot_have_its_turn_yet_has_no_place(queue: Queue) -> None:
    store = queue.store
    asks, fails, paused = (submit(store) for _ in range(3))
    for job in (asks, fails, paused):
        store.start_attempt(job)
    for state in (JobState.VALIDATING, JobState.GROUPING, JobState.AWAITING_APPROVAL):
        store.move(asks, state, attempt=1)
    store.move(fails, JobState.QUEUED, attempt=1, not_before=queue.time + 50)
    store.move(paused, JobState.PAUSED, attempt=1)
    store.set_desired(paused, Desired.PAUSE)
    assert (queue.place(asks).waits_for, queue.place(asks).position) == ("Approval of its plan.", None)
    assert queue.place(fails).position is None
    assert queue.place(fails).starts_at == store.get_job(fails).not_before
    assert queue.look(paused) is None


def test_who_waits_for_its_own_quota_stands_in_nobodys_way(queue: Queue) -> None:
    held = submit(queue.store, priority=5)
    other = submit(queue.store, "b")
    queue.store.set_waits({held: "Quota: its tenant runs 1 of 1 jobs."})
    assert (queue.place(held).position, queue.place(held).starts_at) == (None, None)
    assert queue.place(other).position == 1


def test_a_job_that_goes_on_from_another_has_the_highest_priority_that_its_tenant_may_have(store: Store) -> None:
    job = submit(store, priority=50)
    store.move(job, JobState.CANCELLED, attempt=None)
    store.set_quota("a", max_priority=3)
    spec = store.get_job(job).spec
    retry, _ = store.create_job(spec, tenant="a", retry_of=job)
    assert retry.priority == 3
    with pytest.raises(QuotaExceeded):
        store.create_job(spec, tenant="a")


def test_files_that_come_later_are_measured_again(store: Store, tmp_path: Path) -> None:
    job = submit(store)
    store.start_attempt(job)
    store.move(job, JobState.FAILED, attempt=1)
    store.set_stored(job, 10, store.now() + 1)
    assert store.jobs_to_measure(store.now() + 1000) == []
    store.add_plan(job, trivial_plan(["a"], "all").outline(), lambda number: None)
    assert store.jobs_to_measure(store.now() + 1000) == [job]
