"""Laws of what goes: deleted jobs after the retention, old ones where the settings say so, and never half of one."""

import random
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import select

from grouping.plan import trivial_plan
from service import tables
from service.artifacts import JobFiles
from service.crash_points import AFTERLIFE
from service.errors import Conflict, JobNotFound
from service.keeper import Keeper
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store
from tests.databases import Stores
from workers import faults

SPEC = parse_spec("{name: kept, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")
DAY = 86_400.0
SEEDS = {("sqlite", True): 6, ("sqlite", False): 2, ("postgresql", False): 2}
"""Kind of database, and whether it is in memory -> deaths at every point there; ten in all."""


class House:
    """A store whose clock stands still, files, and a keeper."""

    def __init__(self, store: Store, home: Path, **settings: float) -> None:
        self.store = store
        self.time = 1_800_000_000.0
        store.now = lambda: self.time
        self.settings = Settings.model_validate({"home": home, "retention_days": 7, **settings})
        self.keeper = Keeper(store, self.settings)

    def finished(self, **more: str) -> str:
        """A job that has left a row of everything, and files."""
        job = self.store.create_job(SPEC, idempotency_key=str(self.time + len(more)), **more)[0].id  # type: ignore[arg-type]
        attempt = self.store.start_attempt(job)
        outline = trivial_plan(["a"], "all").outline()
        self.store.add_plan(job, outline, lambda number: self.files(job).write_text("plans/0.json", "{}"))
        self.store.put_groups(job, [{"id": "g1", "kind": "plan", "tasks": ["a"]}], attempt)
        self.store.add_metrics(job, [{"group": "g1", "step": 1, "name": "loss", "value": 1.0}], attempt)
        row = {
            "task": "a",
            "group": "g1",
            "metric": "accuracy",
            "score": 1.0,
            "metrics": {},
            "loss": 0.0,
            "num_test": 1,
        }
        self.store.put_results(job, [row], attempt)
        self.files(job).write_text("groups/g1/learned", "numbers")
        self.store.move(job, JobState.FAILED, attempt=attempt)
        self.time += 1
        return job

    def files(self, job: str) -> JobFiles:
        return JobFiles(self.settings.storage_place, job)

    def purge(self, days: float = 0.0) -> list[str]:
        """What the keeper removes so many days later."""
        self.time += days * DAY
        return self.keeper.purge(self.time)

    def rows(self, job: str) -> dict[str, int]:
        """Table -> rows about the job."""
        found = {}
        with self.store.read() as connection:
            for table in tables.metadata.sorted_tables:
                column = table.c.get("job_id", table.c.id if table.name == "jobs" else None)
                if column is not None and table.name != "audit":
                    found[table.name] = len(connection.execute(select(table).where(column == job)).all())
        return found


def test_a_deleted_job_goes_after_the_retention_and_leaves_nothing(make_store: Stores, tmp_path: Path) -> None:
    house = House(make_store(), tmp_path)
    job, other = house.finished(), house.finished()
    assert all(house.rows(job).values())
    house.store.delete(job)
    assert house.purge(6.9) == []
    assert house.store.restore(job).deleted_at is None
    house.store.delete(job)
    assert house.purge(6.9) == []
    assert house.purge(0.2) == [job]
    assert not any(house.rows(job).values()) and all(house.rows(other).values())
    assert not house.files(job).root.exists() and house.files(other).exists("plans/0.json")
    for ask in (house.store.get_job, house.store.tenant_of, house.store.restore, house.store.delete):
        with pytest.raises(JobNotFound):
            ask(job)
    assert house.purge(100) == []


def test_a_job_stays_while_another_one_needs_it(make_store: Stores, tmp_path: Path) -> None:
    house = House(make_store(), tmp_path)
    job, parent = house.finished(), house.finished()
    children = [house.store.create_job(SPEC, retry_of=job)[0].id]
    children += [house.store.create_job(SPEC, parent=parent, parent_plan=0)[0].id]
    house.store.delete(job)
    house.store.delete(parent)
    assert house.purge(30) == []
    with pytest.raises(Conflict, match="is deleted and cannot be retried"):
        house.store.create_job(SPEC, retry_of=job)
    for child in children:
        house.store.move(child, JobState.FAILED, attempt=None)
    assert house.purge() == [job, parent]


def test_old_jobs_are_deleted_by_themselves_unless_they_are_archived(make_store: Stores, tmp_path: Path) -> None:
    house = House(make_store(), tmp_path, finished_retention_days=30)
    kept, old = house.finished(), house.finished()
    house.store.archive(kept)
    waiting = house.store.create_job(SPEC)[0].id
    assert house.purge(29) == [] and house.store.get_job(old).deleted_at is None
    assert house.purge(2) == [] and house.store.get_job(old).deleted_at is not None
    assert house.store.events(old)[-1].message == "Deleted, as it was finished more than 30 day(s) ago."
    assert house.purge(8) == [old]
    assert house.purge(1000) == []
    assert {job.id for job in house.store.list_jobs()[0]} == {waiting}
    assert [job.id for job in house.store.list_jobs(archived=True)[0]] == [kept]


def test_nothing_is_deleted_by_itself_where_no_time_is_set(make_store: Stores, tmp_path: Path) -> None:
    house = House(make_store(), tmp_path)
    house.finished()
    assert house.purge(10_000) == []


def test_a_dry_run_goes_after_a_day(make_store: Stores, tmp_path: Path) -> None:
    house = House(make_store(), tmp_path)
    job = house.finished(purpose="estimate")
    assert house.purge(0.9) == []
    assert house.purge(0.2) == [job]


def test_files_that_cannot_be_removed_are_left_for_the_next_time(
    make_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(make_store(), tmp_path)
    first, second = house.finished(), house.finished()
    house.store.delete(first)
    house.store.delete(second)
    remove = JobFiles.remove

    def refuse(files: JobFiles) -> None:
        if files.root.name == first:
            raise PermissionError(13, "no", "there")
        remove(files)

    with monkeypatch.context() as patch:
        patch.setattr(JobFiles, "remove", refuse)
        assert house.purge(8) == [second]
        with pytest.raises(JobNotFound):
            house.store.get_job(first)
    assert house.purge() == [first]
    assert not any(house.rows(first).values())


def test_a_service_that_dies_in_between_leaves_a_job_whole_or_not_at_all(make_store: Stores, tmp_path: Path) -> None:
    house = House(make_store(), tmp_path)
    for point, seed in product(AFTERLIFE, range(SEEDS[house.store.dialect, make_store.url == "sqlite://"])):
        rng = random.Random(f"{point} {seed} {make_store.url.partition(':')[0]}")
        jobs, purged = ([house.finished() for _ in range(rng.randint(1, 2))] for _ in range(2))
        for job in purged:
            house.store.delete(job)
        passed = 1 if "begin_purges" in point else len(purged) if "end_purge" in point else len(jobs)
        plan = f"{point}:crash@{rng.randint(1, passed)}"
        faults.arm(plan)
        try:
            with pytest.raises(faults.Crash):
                for job in jobs:
                    house.store.archive(job)
                    house.store.unarchive(job)
                    house.store.delete(job)
                    house.store.restore(job)
                house.purge(8)
        finally:
            faults.arm("")
        for job in jobs:
            events = [event.seq for event in house.store.events(job)]
            assert events == list(range(1, len(events) + 1)), plan
            house.store.restore(job)
        house.purge(8)
        for job in jobs:
            assert house.store.get_job(job).state == JobState.FAILED and house.files(job).exists("plans/0.json"), plan
        for job in purged:
            assert not any(house.rows(job).values()) and not house.files(job).root.exists(), plan


def test_a_job_that_is_restored_or_taken_out_of_the_archive_has_its_time_again(
    make_store: Stores, tmp_path: Path
) -> None:
    house = House(make_store(), tmp_path, finished_retention_days=30)
    restored, kept = house.finished(), house.finished()
    house.store.archive(kept)
    assert house.purge(31) == [] and house.store.get_job(restored).deleted_at is not None
    house.store.restore(restored)
    house.store.unarchive(kept)
    assert house.purge(29) == []
    assert [house.store.get_job(job).deleted_at for job in (restored, kept)] == [None, None]
    assert house.purge(2) == [] and house.store.get_job(kept).deleted_at is not None


def test_an_archived_dry_run_is_kept(make_store: Stores, tmp_path: Path) -> None:
    house = House(make_store(), tmp_path)
    job = house.finished(purpose="estimate")
    house.store.archive(job)
    assert house.purge(1000) == []
    house.store.unarchive(job)
    assert house.purge() == [job]


def test_the_idempotency_key_of_a_job_that_goes_is_free_at_once(
    make_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(make_store(), tmp_path)
    job = house.store.create_job(SPEC, idempotency_key="mine")[0].id
    house.store.move(job, JobState.CANCELLED, attempt=None)
    house.store.delete(job)

    def refuse(files: JobFiles) -> None:
        raise PermissionError(13, "no", "there")

    monkeypatch.setattr(JobFiles, "remove", refuse)
    assert house.purge(8) == []
    again, created = house.store.create_job(SPEC, idempotency_key="mine")
    assert created and again.id != job


def test_no_plan_is_added_to_a_job_that_goes(
    make_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(make_store(), tmp_path)
    job = house.finished()
    house.store.delete(job)
    monkeypatch.setattr(JobFiles, "remove", lambda files: (_ for _ in ()).throw(PermissionError(13, "no", "there")))
    assert house.purge(8) == []
    saved: list[int] = []
    with pytest.raises(JobNotFound):
        house.store.add_plan(job, trivial_plan(["a"], "all").outline(), saved.append)
    assert saved == []


def test_the_audit_log_is_kept_for_as_long_as_the_settings_say(make_store: Stores, tmp_path: Path) -> None:
    store = make_store()
    house = House(store, tmp_path)
    store.add_audit(action="old", status=200)
    house.time += 31 * DAY
    store.add_audit(action="new", status=200)
    for days, kept in ((None, ["new", "old"]), (30.0, ["new"])):
        settings = house.settings.model_copy(update={"audit_days": days})
        Keeper(store, settings).forget(house.time)
        assert [entry.action for entry in store.audit_log()] == kept
