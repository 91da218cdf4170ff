"""Brings a database's tables to the present version, in steps that happen whole or not at all.

Migrations expand first and contract a version later: a column is added with a default, or made to be null, before any
code needs it, and removed once no code of the version before runs.  So replicas of two versions can share a database
while one takes the other's place.  `python -m service.schema "what changes"` drafts the next step from the tables.
"""

import sys
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from service.errors import CohortError
from service.tables import metadata

MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x636F686F7274  # "cohort": any number that no other program takes
_alembic = threading.Lock()  # Alembic keeps its present context in a global


def migrate(connection: Connection, migrations: Path = MIGRATIONS) -> None:
    """Runs the steps that the database lacks, inside the caller's transaction; processes that start at once queue up.

    CohortError for a database that a newer Cohort, or one from before the first migration, has made.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = _config(connection, migrations)
    _refuse_others(connection, ScriptDirectory.from_config(config))
    with _alembic:
        command.upgrade(config, "head")


def draft(message: str) -> Path:
    """Writes the step from the newest migration to the present tables, for a person to read and mend."""
    with create_engine("sqlite://").begin() as connection:
        migrate(connection)
        config = _config(connection, MIGRATIONS)
        number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
        written = command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")
    assert not isinstance(written, list) and written is not None
    return Path(written.path)


def _config(connection: Connection, migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    return config


def _refuse_others(connection: Connection, steps: ScriptDirectory) -> None:
    present = MigrationContext.configure(connection).get_current_revision()
    if present is not None and present not in {step.revision for step in steps.walk_revisions()}:
        raise CohortError(
            f"The database is at migration {present!r}, which this version of Cohort does not know: a newer one has "
            "made it. Start that version, or set COHORT_HOME, or COHORT_DATABASE_URL, to another place."
        )
    if present is None and set(inspect(connection).get_table_names()) & set(metadata.tables):
        raise CohortError(
            "The database was made by a Cohort from before the first migration, and cannot be taken over. Set "
            "COHORT_HOME, or COHORT_DATABASE_URL, to a new place."
        )


if __name__ == "__main__":
    sys.stdout.write(f"{draft(sys.argv[1])}\n")
