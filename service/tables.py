"""The tables.  Times are seconds since 1970 (UTC) as floats; nothing here is special to SQLite or PostgreSQL."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={  # a constraint that has a name can be changed by a migration
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_unique",
        "fk": "%(table_name)s_%(column_0_N_name)s_exists",
        "pk": "%(table_name)s_key",
    }
)


def _job_id(*, primary_key: bool = False) -> Column:
    return Column("job_id", String(32), ForeignKey("jobs.id"), primary_key=primary_key, nullable=False)


jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("spec", Text, nullable=False),
    Column("num_tasks", Integer, nullable=False, server_default="0"),  # what listings show of the spec, which is long
    Column("method", String(32), nullable=False, server_default=""),
    Column("state", String(24), nullable=False),
    Column("state_since", Float, nullable=False),
    Column("desired", String(8), nullable=False),
    Column("desired_since", Float, nullable=False),
    Column(
        "attempt", Integer, nullable=False, default=0
    ),  # the fence: a driver's write counts only if it carries this number
    Column("failures", Integer, nullable=False, default=0),  # attempts that died; pauses, approvals and drains are none
    Column("not_before", Float, nullable=False, default=0.0),  # a retry waits until then
    Column("reason", Text),
    Column("submission_id", String(64)),
    Column("parent", String(32)),
    Column("parent_plan", Integer),  # the plan of the parent that this job begins with
    Column("purpose", String(16), nullable=False, server_default="train"),  # or `estimate`: a dry run
    Column("priority", Integer, nullable=False, server_default="0"),  # higher ones start first
    Column("at_once", Boolean, nullable=False, server_default=false()),  # the wish does not wait for checkpoints
    Column("failure", String(24)),  # the class of what ended it, or its newest attempt
    Column("waits_for", Text),  # why the queue passes it by
    Column("devices", Integer),  # device workers that its attempt may hold
    Column("seen_at", Float),  # when its driver last looked at its wish
    Column("storage_bytes", BigInteger, nullable=False, server_default="0"),
    Column("measured_at", Float),  # when that was last found out
    Column("deadline_at", Float),  # from then on it is given up; known once it has started
    Column("archived_at", Float),
    Column("deleted_at", Float),  # its files and rows go some time after that
    Column("purged_at", Float),  # from then on nobody sees it; its files go, then this row
    Column("retry_of", String(32)),  # the finished job whose files this one takes over
    Column("stage_times", JSON, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("last_event", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Index("jobs_by_state", "state", "id"),
    Index("jobs_by_tenant", "tenant", "id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    _job_id(),
    Column("created_at", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    _job_id(primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(64), nullable=False),
    Column("level", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)

groups = Table(
    "groups",
    metadata,
    _job_id(primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("tasks", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("num_steps", Integer, nullable=False),
    Column("losses", JSON, nullable=False),
    Column("reason", Text),
    Column("worker", String(255)),
    Column("parameters", JSON, nullable=False),
    Column("seconds", Float),
    Column("images_per_step", Integer, nullable=False),
    Column("texts_per_step", Integer, nullable=False),
    Column("failure", String(24)),  # the class of what ended it last
    Column("failures", Integer, nullable=False, server_default="0"),  # times that it failed, over all attempts
    Column("tries", JSON, nullable=False, server_default="[]"),  # [class, newest checkpoint] of those it failed alone
    Column("microbatches", Integer, nullable=False, server_default="1"),  # parts that its batches are taken in
    Column("memory", JSON),  # what the pass took that it trained in: a `Footprint`
    Column("updated_at", Float, nullable=False),
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", Integer, primary_key=True),
    _job_id(),
    Column("group", String(128), nullable=False),
    Column("task", String(64), nullable=False),  # "" where a number belongs to the whole group: NULLs are never equal
    Column("step", Integer, nullable=False),
    Column("name", String(64), nullable=False),
    Column("value", Float),
    UniqueConstraint("job_id", "group", "task", "step", "name"),
    Index("metrics_by_job", "job_id", "id"),
)

results = Table(
    "results",
    metadata,
    _job_id(primary_key=True),
    Column("task", String(64), primary_key=True),
    Column("baseline", String(16), primary_key=True),  # "" is the job's own plan
    Column("group", String(128), nullable=False),
    Column("metric", String(32), nullable=False),
    Column("score", Float),
    Column("metrics", JSON, nullable=False),
    Column("loss", Float),
    Column("num_test", Integer, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    _job_id(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("outline", JSON, nullable=False),  # what listings show of it; the plan itself is an artifact
    Column("attempt", Integer),  # the attempt that made it; NULL: somebody asked for it
    Column("approved", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("approved_at", Float),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("prefix", String(16), primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("name", String(255), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("last_used_at", Float),
    Column("revoked_at", Float),  # may lie ahead: a key that was rotated works a little longer
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("tenant", String(64)),
    Column("key", String(16)),  # the prefix; NULL where no good key was sent
    Column("role", String(16)),
    Column("address", String(64)),
    Column("action", String(255), nullable=False),  # method and route
    Column("job_id", String(32)),
    Column("status", Integer, nullable=False),
    Index("audit_by_tenant", "tenant", "id"),
)

quotas = Table(  # what a tenant may use at most; NULL: as much as there is
    "quotas",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("max_running_jobs", Integer),
    Column("max_devices", Integer),
    Column("max_storage_bytes", BigInteger),
    Column("max_priority", Integer),
    Column("updated_at", Float, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("token", Integer, nullable=False),  # grows with every takeover: the fence
    Column("expires_at", Float, nullable=False),  # by the database's clock
)

flags = Table(
    "flags",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Boolean, nullable=False),
)
