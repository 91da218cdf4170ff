"""What the life of a job, the queue and failures need: columns that old code may leave alone, and quotas."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("max_running_jobs", sa.Integer(), nullable=True),
        sa.Column("max_devices", sa.Integer(), nullable=True),
        sa.Column("max_storage_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_priority", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("quotas_key")),
    )
    with op.batch_alter_table("groups", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failure", sa.String(length=24), nullable=True))
        batch_op.add_column(sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("tries", sa.JSON(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("microbatches", sa.Integer(), server_default="1", nullable=False))

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("num_tasks", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("method", sa.String(length=32), server_default="", nullable=False))
        batch_op.add_column(sa.Column("purpose", sa.String(length=16), server_default="train", nullable=False))
        batch_op.add_column(sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
        # "0" and not false(): for an expression Alembic would copy the table and drop the old one, which rows hang on
        batch_op.add_column(sa.Column("at_once", sa.Boolean(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("failure", sa.String(length=24), nullable=True))
        batch_op.add_column(sa.Column("waits_for", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("devices", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("seen_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("storage_bytes", sa.BigInteger(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("measured_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("deadline_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("archived_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("deleted_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("purged_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("retry_of", sa.String(length=32), nullable=True))

    jobs = sa.table("jobs", sa.column("id"), sa.column("spec"), sa.column("num_tasks"), sa.column("method"))
    connection = op.get_bind()
    for job, text in connection.execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        spec = json.loads(text)
        values = {"num_tasks": len(spec["tasks"]), "method": spec["method"]["kind"]}
        connection.execute(sa.update(jobs).where(jobs.c.id == job).values(values))
