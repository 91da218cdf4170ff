"""A thousand verbs of eight users who do not know of each other, on jobs that run, fail, are retried and removed.

The app, the coordinator and the keeper are the real ones; drivers run in threads and do what a real one does with its
wish, now and then dying.  What must be true is looked at in the end, in the rows themselves.
"""

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from api.app import create_app
from service import tables
from service.artifacts import JobFiles
from service.control_plane import ControlPlane
from service.errors import JobNotFound
from service.ray_jobs import ENDED, FakeRayJobs
from service.records import submission_id
from service.settings import Settings
from service.states import ALLOWED_MOVES, TERMINAL, Desired, JobState, Verb
from service.store import Store
from tests.api.conftest import SPEC, YAML
from tests.databases import Stores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS = 8
VERBS = int(os.environ.get("COHORT_TEST_RACING_VERBS", "1000"))
STAGES = (JobState.VALIDATING, JobState.PROFILING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING)
SUBMIT = "submit"
WEIGHTS = {
    **{SUBMIT: 6, Verb.CANCEL: 2, Verb.PAUSE: 3, Verb.RESUME: 4, Verb.RETRY: 4, Verb.CLONE: 1},
    **{Verb.ARCHIVE: 1, Verb.UNARCHIVE: 1, Verb.DELETE: 2, Verb.RESTORE: 2},
}
_SECOND = 1 / 86_400


class Driver:
    """What a driver does, without computing anything; it dies with its Ray Job."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ray: FakeRayJobs

    def __call__(self, job: str, attempt: int) -> None:
        chance = random.Random(f"{job} {attempt}")
        for to in (*STAGES, None):
            time.sleep(chance.uniform(0.0, 0.02))
            if self.ray.status(submission_id(job, attempt)) in ENDED:
                return
            if chance.random() < 0.04:
                raise RuntimeError("the driver dies")
            wish = self.store.wish(job)
            if wish.attempt != attempt or not wish.active:
                return
            if wish.desired is Desired.CANCEL:
                to = JobState.CANCELLED
            elif wish.desired is Desired.PAUSE:
                to = JobState.PAUSED
            elif chance.random() < 0.04:
                to = JobState.FAILED
            elif to is None:
                to = chance.choice([JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED])
            if not self.store.move(job, to, attempt=attempt) or to not in STAGES:
                return


@pytest.fixture
def control_plane(make_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    monkeypatch.setattr("service.control_plane.KEEP_SECONDS", 0.5)  # removals take part in the race
    for task in "ab":
        (tmp_path / "data" / task).mkdir(parents=True)
    values = {"home": tmp_path, "data_roots": [str(tmp_path / "data")], "no_auth": True, "requests_per_minute": 0}
    values |= {"poll_seconds": 0.02, "max_running_jobs": 6, "backoff_seconds": 0.05, "retention_days": _SECOND}
    driver = Driver(make_store())
    driver.ray = FakeRayJobs(driver)
    return ControlPlane(Settings.model_validate(values), store=make_store(), ray_jobs=driver.ray)


async def user(client: httpx2.AsyncClient, jobs: list[str], answers: Counter, number: int) -> None:
    """Asks this and that of jobs, others' as well."""
    chance = random.Random(number)
    for _ in range(VERBS // CLIENTS):
        verb = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        job = chance.choice(jobs[-30:]) if jobs else None
        if verb == SUBMIT or job is None:
            answer = await client.post("/v1/jobs", content=SPEC, headers=YAML)
            assert answer.status_code == 202, answer.text
        elif verb == Verb.DELETE:
            answer = await client.delete(f"/v1/jobs/{job}")
        elif verb == Verb.CLONE:
            answer = await client.post(f"/v1/jobs/{job}/clone", json={})
        else:
            mode = {"mode": "now"} if verb == Verb.CANCEL and chance.random() < 0.5 else {}
            answer = await client.post(f"/v1/jobs/{job}/{verb}", params=mode)
        answers[verb, answer.status_code] += 1
        assert answer.status_code in (200, 202, 404, 409), answer.text
        if answer.status_code < 300 and answer.json()["id"] not in jobs:
            jobs.append(answer.json()["id"])
        await asyncio.sleep(chance.uniform(0.0, 0.05))


def test_a_thousand_racing_verbs_break_nothing(control_plane: ControlPlane) -> None:
    store, jobs, answers = control_plane.store, [], Counter()

    async def story() -> None:
        transport = httpx2.ASGITransport(create_app(control_plane))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            await asyncio.gather(*(user(client, jobs, answers, number) for number in range(CLIENTS)))

    control_plane.start()
    try:
        asyncio.run(story())
        settle(store, jobs)
    finally:
        control_plane.stop()
    assert sum(answers.values()) >= VERBS - CLIENTS
    assert {verb for verb, status in answers if status < 300} == set(WEIGHTS)
    check_rows(store)
    gone = [job for job in jobs if not is_there(store, job)]
    assert gone, "no job was removed"
    assert not [job for job in gone if JobFiles(control_plane.settings.storage, job).root.exists()]


def settle(store: Store, jobs: list[str]) -> None:
    """Waits until every job has ended; those that are paused go on first."""
    deadline = time.monotonic() + 300
    open_jobs = list(jobs)
    while open_jobs:
        assert time.monotonic() < deadline, [store.get_job(job) for job in open_jobs]
        still = []
        for job_id in open_jobs:
            try:
                job = store.get_job(job_id)
            except JobNotFound:
                continue
            if not job.is_finished:
                still.append(job_id)
                if job.desired == Desired.PAUSE:
                    store.set_desired(job_id, Desired.RUN)
        open_jobs = still
        time.sleep(0.05)


def is_there(store: Store, job: str) -> bool:
    try:
        return bool(store.get_job(job))
    except JobNotFound:
        return False


def check_rows(store: Store) -> None:
    """Events tell every move without a gap, moves are legal, ends are final, no row is left over."""
    with store.read() as connection:
        rows = {row["id"]: row for row in connection.execute(select(tables.jobs)).mappings()}
        for table in (tables.events, tables.groups, tables.metrics, tables.plans, tables.idempotency_keys):
            assert set(connection.scalars(select(table.c.job_id))) <= rows.keys()
    retries = defaultdict(list)
    for job_id, row in rows.items():
        if row["purged_at"] is not None:
            continue
        events = store.events(job_id, limit=5000)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        moves = [(event.seq, JobState(event.data["to"])) for event in events if event.kind == "state"]
        states = [state for _, state in moves]
        assert states[-1] == row["state"] and states[-1] in TERMINAL
        assert all(after in ALLOWED_MOVES[before] for before, after in pairwise(states))
        assert states.count(JobState.STARTING) == row["attempt"]
        assert not [event for event in events if event.kind == "wish" and event.seq > moves[-1][0]]
        assert row["state"] != JobState.CANCELLED or row["desired"] == Desired.CANCEL
        if row["retry_of"] is not None:
            retries[row["retry_of"]].append((row["created_at"], row["finished_at"]))
    for spans in retries.values():
        for (_, ended), (began, _) in pairwise(sorted(spans)):
            assert ended <= began, "two retries of a job were under way at once"
