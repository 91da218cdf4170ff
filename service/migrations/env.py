"""What Alembic runs to migrate: on the connection, and inside the transaction, that `service.database` opened."""

from typing import Any

from alembic import context

from service.tables import metadata
from workers import faults


def _applied(*_: Any, **what: Any) -> None:
    faults.point(f"migrate.{what['step'].up_revision_id}")


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    on_version_apply=_applied,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
