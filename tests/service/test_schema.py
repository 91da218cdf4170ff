"""Laws of the migrations: they make exactly the tables, whole or not at all, and never touch what is not theirs."""

import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import JSON, Connection, create_engine, inspect, make_url, text, update
from sqlalchemy.exc import IntegrityError

from service.errors import CohortError
from service.schema import MIGRATIONS, _config, migrate
from service.spec import parse_spec
from service.states import ALLOWED_MOVES, JobState
from service.store import Store
from service.tables import jobs, metadata
from tests.databases import Stores, shared

SPEC = parse_spec("{name: two, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")

BROKEN = '''
"""Adds a column, and breaks in the middle."""
import sqlalchemy as sa
from alembic import op
revision = "9999"
down_revision = "{before}"
def upgrade():
    op.add_column("jobs", sa.Column("colour", sa.String(8)))
    op.execute("UPDATE jobs SET colour = 'red'")
    {then}
'''


def steps(folder: Path, then: str) -> Path:
    """The migrations, and one more."""
    copy = folder / "migrations"
    shutil.copytree(MIGRATIONS, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    newest = max(path.name.partition("_")[0] for path in (copy / "versions").glob("0*.py"))
    (copy / "versions" / "9999_more.py").write_text(BROKEN.format(before=newest, then=then))
    return copy


@shared
def test_the_migrations_come_to_exactly_the_tables(make_store: Stores) -> None:
    with make_store().read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_postgresql_of_another_encoding_serves_as_well(postgres: str) -> None:
    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'"))
    store = Store(str(make_url(postgres).set(database="plain").render_as_string(hide_password=False)))
    store.create_schema()
    job, _ = store.create_job(SPEC)
    store.add_event(job.id, "note", "Grüße")
    assert store.events(job.id)[-1].message == "Grüße"
    store.close()
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE plain"))
    engine.dispose()


@shared
def test_a_migration_that_breaks_leaves_everything_as_it_was_and_the_next_try_finishes(
    make_store: Stores, tmp_path: Path
) -> None:
    store = make_store()
    job, _ = store.create_job(SPEC)
    with pytest.raises(RuntimeError, match="power cut"), store.write() as connection:
        migrate(connection, steps(tmp_path, "raise RuntimeError('power cut')"))
    with store.read() as connection:
        assert "colour" not in {column["name"] for column in inspect(connection).get_columns("jobs")}
    assert store.get_job(job.id) == job
    with store.write() as connection:
        migrate(connection, steps(tmp_path, "pass"))
    with store.read() as connection:
        assert connection.execute(text("SELECT colour FROM jobs")).scalars().all() == ["red"]
    assert store.get_job(job.id) == job  # this version goes on reading what a newer one has expanded


REVISIONS = sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("0*.py"))


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_a_migration_that_is_killed_at_any_step_is_finished_by_the_next_start(
    kind: str, revision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}" if kind == "file" else request.getfixturevalue("postgres_url")
    code = "import sys; from service.store import Store; from workers import faults; "
    code += "faults.arm(sys.argv[2]); Store(sys.argv[1]).create_schema()"
    killed = subprocess.run([sys.executable, "-c", code, url, f"migrate.{revision}:kill"], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = Store(url)
    with store.read() as connection:
        assert inspect(connection).get_table_names() == []
    store.create_schema()
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.create_job(SPEC)
    store.close()


@shared
def test_a_database_of_a_newer_version_is_refused_in_words(make_store: Stores, tmp_path: Path) -> None:
    store = make_store()
    with store.write() as connection:
        migrate(connection, steps(tmp_path, "pass"))
    with pytest.raises(CohortError, match="'9999', which this version of Cohort does not know"):
        store.create_schema()


@shared
def test_a_database_from_before_the_first_migration_is_refused_in_words(make_store: Stores) -> None:
    store = make_store()
    with store.write() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    with pytest.raises(CohortError, match="from before the first migration"):
        store.create_schema()


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_control_planes_that_start_at_once_migrate_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}" if kind == "file" else request.getfixturevalue("postgres_url")
    stores = [Store(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda store: store.create_schema(), stores)) == [None] * 8
    assert stores[0].list_jobs() == ([], None)
    for store in stores:
        store.close()


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_jobs_of_the_first_version_and_what_hangs_on_them_outlive_every_migration(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'cohort.db'}" if kind == "file" else request.getfixturevalue("postgres_url")
    store = Store(url)
    with store.write() as connection:
        command.upgrade(_config(connection, MIGRATIONS), "0001")
        job = {"id": "job-00000000000a", "name": "two", "tenant": "t", "spec": SPEC.model_dump_json()}
        _old_row(connection, "jobs", job | {"state": "TRAINING", "desired": "run"})
        _old_row(connection, "groups", {"job_id": job["id"], "id": "g1", "kind": "plan", "state": "running"})
    store.create_schema()
    (group,) = store.groups(job["id"])
    found = store.get_job(job["id"])
    assert (found.state, found.purpose, found.at_once) == (JobState.TRAINING, "train", False)
    assert (found.num_tasks, found.method) == (1, SPEC.method.kind)
    assert (group.microbatches, group.failures, len(group.tries)) == (1, 0, 0)
    store.close()


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_the_database_itself_refuses_every_move_that_is_not_allowed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'cohort.db'}" if kind == "file" else request.getfixturevalue("postgres_url"))
    store.create_schema()
    taken = set()
    for number, (old, new) in enumerate(product(JobState, JobState)):
        try:
            with store.write() as connection:
                job = {
                    "id": f"job-{number}",
                    "name": "x",
                    "tenant": "t",
                    "spec": "{}",
                    "desired": "run",
                    "at_once": False,
                }
                _old_row(connection, "jobs", job | {"state": old})
                connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(state=new))
                taken.add((old, new))
        except IntegrityError as error:
            assert "illegal move of a job" in str(error)
    assert taken == {(old, new) for old in JobState for new in ALLOWED_MOVES[old] | {old}}
    store.close()


def _old_row(connection: Connection, table: str, values: dict[str, Any]) -> None:
    """A row as old code writes it: what it says nothing of is empty."""
    for column in inspect(connection).get_columns(table):
        if not column["nullable"] and column["name"] not in values:
            values[column["name"]] = "{}" if isinstance(column["type"], JSON) else 0
    names = ", ".join(f'"{name}"' for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{n}' for n in values)})"), values)
