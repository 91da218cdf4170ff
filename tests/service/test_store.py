"""Laws of the store: one writer wins, nothing is half written, late writers change nothing."""

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from grouping.plan import trivial_plan
from service.errors import (
    BadCursor,
    Conflict,
    IdempotencyConflict,
    IllegalMove,
    JobFinished,
    JobNotFound,
    PlanNotFound,
)
from service.spec import JobSpec, parse_spec
from service.states import ACTIVE, ALLOWED_MOVES, TERMINAL, WAITING, Desired, JobState
from service.store import ResultRow, Store
from tests.databases import Stores, shared

SPEC = parse_spec("{name: two, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")
OUTLINE = trivial_plan(["a"], "alone").outline()


def running(store: Store, state: JobState = JobState.TRAINING) -> str:
    job, _ = store.create_job(SPEC)
    attempt = store.start_attempt(job.id)
    for step in (JobState.VALIDATING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING):
        store.move(job.id, step, attempt=attempt)
        if step == state:
            break
    return job.id


def result(**changes: Any) -> dict[str, Any]:
    row = {"task": "a", "group": "g1", "baseline": None, "metric": "recall@1", "score": 0.5}
    return row | {"metrics": {"recall@1": 0.5, "recall@5": 1.0}, "loss": 0.1, "num_test": 4} | changes


def test_a_result_comes_back_with_its_metric_and_all_that_was_measured(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store)
    nowhere = {"recall@1": 0.25, "recall@5": float("nan")}
    store.put_results(job_id, [result(), result(baseline="alone", metrics=nowhere, loss=float("inf"))], 1)
    own, alone = store.results(job_id)
    assert own == ResultRow("a", "g1", None, "recall@1", 0.5, {"recall@1": 0.5, "recall@5": 1.0}, 0.1, 4)
    assert (alone.baseline, alone.metrics, alone.loss) == ("alone", {"recall@1": 0.25, "recall@5": None}, None)
    store.put_results(job_id, [result(score=0.75, metrics={"recall@1": 0.75})], 1)
    assert next((row.score, row.metrics) for row in store.results(job_id)) == (0.75, {"recall@1": 0.75})


def test_a_job_comes_back_as_it_was_sent(make_store: Stores) -> None:
    store = make_store()
    job, created = store.create_job(SPEC, tenant="lab")
    assert created
    assert store.get_job(job.id) == job
    assert (job.spec, job.state, job.desired, job.attempt) == (SPEC, JobState.QUEUED, Desired.RUN, 0)
    assert isinstance(job.spec, JobSpec)


def test_unknown_jobs_are_not_found(make_store: Stores) -> None:
    store = make_store()
    for ask in (store.get_job, store.events, store.groups, store.results, store.plans, store.metrics, store.wish):
        for job_id in ("job-000000000000", "", "job-\0", "\ud800", "j" * 100):
            with pytest.raises(JobNotFound, match="no job"):
                ask(job_id)


def test_same_key_same_body_is_the_same_job_and_another_body_is_refused(make_store: Stores) -> None:
    store = make_store()
    first, created = store.create_job(SPEC, idempotency_key="k", body_sha256="x")
    again, created_again = store.create_job(SPEC, idempotency_key="k", body_sha256="x")
    assert (created, created_again, again.id) == (True, False, first.id)
    with pytest.raises(IdempotencyConflict, match=first.id):
        store.create_job(SPEC, idempotency_key="k", body_sha256="y")
    other, _ = store.create_job(SPEC, idempotency_key="k", body_sha256="y", tenant="other")
    assert other.id != first.id


def test_sixty_four_identical_requests_make_one_job(make_store: Stores) -> None:
    store = make_store()
    with ThreadPoolExecutor(64) as pool:
        made = list(pool.map(lambda _: store.create_job(SPEC, idempotency_key="same"), range(64)))
    assert len({job.id for job, _ in made}) == 1
    assert sum(created for _, created in made) == 1
    assert len(store.list_jobs()[0]) == 1


def test_listing_pages_through_every_job_newest_first(make_store: Stores) -> None:
    store = make_store()
    ids = [store.create_job(SPEC)[0].id for _ in range(7)]
    seen, cursor = [], None
    while True:
        page, cursor = store.list_jobs(after=cursor, limit=3)
        seen += [job.id for job in page]
        if cursor is None:
            break
    assert seen == ids[::-1]
    assert [job.id for job in store.list_jobs(state=JobState.FAILED)[0]] == []
    with pytest.raises(BadCursor, match="not handed out"):
        store.list_jobs(after="' OR 1=1 --")


def test_the_table_of_moves_is_whole() -> None:
    assert set(ALLOWED_MOVES) == set(JobState) == TERMINAL | ACTIVE | WAITING
    assert all(not ALLOWED_MOVES[state] for state in TERMINAL)
    assert all(JobState.CANCELLED in ALLOWED_MOVES[state] for state in ACTIVE | WAITING)
    reached, edge = {JobState.QUEUED}, {JobState.QUEUED}
    while edge:
        edge = set().union(*(ALLOWED_MOVES[state] for state in edge)) - reached
        reached |= edge
    assert reached == set(JobState)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_finished_jobs_never_change(make_store: Stores, state: JobState) -> None:
    store = make_store()
    job_id = running(store, JobState.PUBLISHING)
    assert store.move(job_id, state, attempt=1)
    assert not store.move(job_id, JobState.TRAINING, attempt=1)
    for to in set(JobState) - {state}:
        with pytest.raises(IllegalMove, match="cannot become"):
            store.move(job_id, to, attempt=None)
    for desired in (Desired.RUN, Desired.PAUSE):
        with pytest.raises(JobFinished, match=state):
            store.set_desired(job_id, desired)
    assert store.get_job(job_id).state == state
    assert store.get_job(job_id).finished_at is not None


def test_cancel_is_repeatable_also_when_it_is_done(make_store: Stores) -> None:
    store = make_store()
    job_id = store.create_job(SPEC)[0].id
    store.set_desired(job_id, Desired.CANCEL)
    store.set_desired(job_id, Desired.CANCEL)
    store.move(job_id, JobState.CANCELLED, attempt=None)
    assert store.set_desired(job_id, Desired.CANCEL).state == JobState.CANCELLED
    assert [event.kind for event in store.events(job_id)] == ["state", "wish", "state"]


def test_a_stale_attempt_changes_nothing(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store)
    store.put_groups(job_id, [{"id": "g1", "kind": "plan", "tasks": ["a"]}], 1)
    store.move(job_id, JobState.QUEUED, attempt=1)
    assert store.start_attempt(job_id) == 2
    before = (store.get_job(job_id), store.events(job_id), store.groups(job_id))
    assert not store.move(job_id, JobState.VALIDATING, attempt=1)
    assert store.add_event(job_id, "note", "late", attempt=1) is None
    assert not store.put_groups(job_id, [{"id": "g2", "kind": "plan", "tasks": ["a"]}], 1)
    assert not store.update_group(job_id, "g1", attempt=1, state="done")
    assert not store.add_metrics(job_id, [{"group": "g1", "task": "a", "step": 1, "name": "loss", "value": 1.0}], 1)
    assert not store.put_results(job_id, [result()], 1)
    assert store.add_plan(job_id, OUTLINE, lambda number: pytest.fail("saved"), approved=True, attempt=1) is None
    assert not store.set_progress(job_id, {"late": 1}, 1)
    assert before == (store.get_job(job_id), store.events(job_id), store.groups(job_id))
    assert not store.metrics(job_id) + store.results(job_id) + store.plans(job_id)


def test_an_attempt_whose_job_was_taken_back_is_stale_at_once(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store)
    store.move(job_id, JobState.QUEUED, attempt=1)
    assert store.add_event(job_id, "note", "late", attempt=1) is None
    assert not store.move(job_id, JobState.PUBLISHING, attempt=1)
    assert not store.wish(job_id).active


def test_the_current_attempt_may_not_jump(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store, JobState.VALIDATING)
    with pytest.raises(IllegalMove, match="VALIDATING and cannot become SUCCEEDED"):
        store.move(job_id, JobState.SUCCEEDED, attempt=1)


def test_every_move_is_told_in_an_event(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store, JobState.PUBLISHING)
    store.move(job_id, JobState.SUCCEEDED, attempt=1)
    told = [event.data.get("to") for event in store.events(job_id)]
    assert told == ["QUEUED", "STARTING", "VALIDATING", "GROUPING", "TRAINING", "PUBLISHING", "SUCCEEDED"]
    assert set(store.get_job(job_id).stage_times) == {"validate", "group", "train", "publish"}


def write_events(url: str, job_id: str, attempt: int, count: int) -> None:
    store = Store(url)
    for number in range(count):
        store.add_event(job_id, "note", f"{number}", attempt=attempt)
    store.close()


@shared
def test_event_numbers_have_no_gaps_under_writers_in_threads_and_processes(make_store: Stores) -> None:
    store, url = make_store(), make_store.url
    job_id = running(store)
    first = len(store.events(job_id))
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=write_events, args=(url, job_id, attempt, 20)) for attempt in (1, 1, 9)]
    for process in others:
        process.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.add_event(job_id, "note", f"t{n}", attempt=1), range(40)))
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert [event.seq for event in store.events(job_id)] == list(range(1, first + 1 + 20 + 20 + 40))
    assert store.events(job_id, after=first + 5, limit=2)[0].seq == first + 6


@shared
def test_two_coordinators_start_one_attempt(make_store: Stores) -> None:
    stores = [make_store(), make_store()]
    job_id = stores[0].create_job(SPEC)[0].id

    def start(store: Store) -> int | None:
        try:
            return store.start_attempt(job_id)
        except IllegalMove:
            return None

    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(start, stores * 4))
    assert sorted(started, key=str) == [1] + [None] * 7


def test_a_resumed_attempt_keeps_what_groups_had_and_replaces_repeated_steps(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store)
    store.put_groups(
        job_id, [{"id": "g2", "kind": "plan", "tasks": ("a",)}, {"id": "g1", "kind": "plan", "tasks": ("a",)}], 1
    )
    store.update_group(job_id, "g2", attempt=1, state="running", step=7, losses={"a": float("nan")})
    row = {"group": "g2", "task": "a", "step": 7, "name": "loss"}
    store.add_metrics(job_id, [{**row, "value": 2.0}, {**row, "task": None, "name": "lr", "value": float("inf")}], 1)
    store.move(job_id, JobState.QUEUED, attempt=1)
    store.start_attempt(job_id)
    store.put_groups(job_id, [{"id": "g2", "kind": "plan", "tasks": ("a",), "state": "waiting"}], 2)
    store.add_metrics(job_id, [{**row, "value": 1.5}], 2)
    groups = store.groups(job_id)
    assert [group.id for group in groups] == ["g2", "g1"]
    assert (groups[0].state, groups[0].step, groups[0].losses) == ("waiting", 7, {"a": None})
    assert [(metric.task, metric.name, metric.value) for metric in store.metrics(job_id)] == [
        ("a", "loss", 1.5),
        (None, "lr", None),
    ]
    assert [metric.id for metric in store.metrics(job_id, name="loss")] == [1]


def test_one_plan_is_approved_at_a_time_and_a_person_may_change_their_mind_until_groups_train(
    make_store: Stores,
) -> None:
    store = make_store()
    job_id = running(store, JobState.GROUPING)
    with pytest.raises(PlanNotFound, match="no plan 0"):
        store.approve_plan(job_id, 0)
    saved: list[int] = []
    assert [store.add_plan(job_id, OUTLINE, saved.append, attempt=1) for _ in range(2)] == [0, 1] == saved
    assert not any(plan.approved for plan in store.plans(job_id))
    for number in (0, 0, 1):
        store.approve_plan(job_id, number)
    store.add_plan(job_id, OUTLINE, saved.append, approved=True)  # a person's approval stays
    assert [plan.approved for plan in store.plans(job_id)] == [False, True, False]
    assert [event.data["plan"] for event in store.events(job_id) if event.kind == "plan"] == [0, 1]
    store.move(job_id, JobState.TRAINING, attempt=1)
    store.approve_plan(job_id, 1)
    with pytest.raises(Conflict, match="trains plan 1; plan 0 cannot be approved any more"):
        store.approve_plan(job_id, 0)
    store.move(job_id, JobState.QUEUED, attempt=1)  # interrupted: its groups have begun all the same
    with pytest.raises(Conflict, match="trains plan 1"):
        store.approve_plan(job_id, 0)


def test_approving_a_plan_that_is_not_there_tells_which_are(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store, JobState.GROUPING)
    with pytest.raises(PlanNotFound, match=r"no plan 0; it is GROUPING\. Wait for its plan"):
        store.approve_plan(job_id, 0)
    for _ in range(2):
        store.add_plan(job_id, OUTLINE, lambda number: None, attempt=1)
    with pytest.raises(PlanNotFound, match=r"no plan 7; it has '0', '1'\. Approve one of these"):
        store.approve_plan(job_id, 7)


def test_an_approved_job_says_that_it_waits_for_its_turn_and_no_longer_for_approval(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store, JobState.GROUPING)
    for _ in range(2):
        store.add_plan(job_id, OUTLINE, lambda number: None, attempt=1)
    store.approve_plan(job_id, 0)
    assert store.get_job(job_id).reason is None
    store.move(job_id, JobState.AWAITING_APPROVAL, attempt=1, reason="the plan waits for approval")
    approved = store.approve_plan(job_id, 1)
    assert (approved.state, approved.reason) == (
        JobState.AWAITING_APPROVAL,
        "plan 1 is approved; the job waits for its turn",
    )
    store.start_attempt(job_id)
    assert store.get_job(job_id).reason is None


def test_a_plan_that_cannot_be_saved_is_none(make_store: Stores) -> None:
    def full(number: int) -> None:
        raise OSError("disk full")

    store = make_store()
    job_id = running(store, JobState.GROUPING)
    with pytest.raises(OSError, match="disk full"):
        store.add_plan(job_id, OUTLINE, full, attempt=1)
    assert store.plans(job_id) == []


def test_draining_reaches_every_driver_with_its_wish(make_store: Stores) -> None:
    store = make_store()
    job_id = running(store)
    assert not store.wish(job_id).draining
    store.set_draining(True)
    assert store.wish(job_id).draining
    store.set_draining(False)
    assert not store.wish(job_id).draining


def test_keys_are_stored_as_hashes_and_stop_when_revoked(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'cohort.db'}")
    store.create_schema()
    key = store.create_key("laptop")
    info = store.check_key(key)
    assert info is not None and info.name == "laptop" and key.startswith(f"cohort_{info.prefix}_")
    assert store.check_key(key[:-1]) is None
    assert store.use_is_to_be_noted(info)
    store.note_use(info)
    (used,) = store.list_keys()
    assert used.last_used_at is not None and not store.use_is_to_be_noted(used)
    secret = key.split("_")[2].encode()
    assert not any(secret in path.read_bytes() for path in tmp_path.iterdir())
    store.revoke_key(info.prefix)
    assert store.check_key(key) is None


def test_errors_survive_pickling(make_store: Stores) -> None:
    store = make_store()
    with pytest.raises(JobNotFound) as caught:
        store.get_job("job-x")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
