"""The database itself refuses a move of a job that `service.states` does not know, whoever writes it."""

from alembic import op

revision = "0004"
down_revision = "0003"

_ALWAYS = "QUEUED PAUSED FAILED CANCELLED"
_MOVES = {
    "QUEUED": "STARTING PAUSED FAILED CANCELLED",
    "STARTING": f"{_ALWAYS} VALIDATING",
    "VALIDATING": f"{_ALWAYS} PROFILING GROUPING",
    "PROFILING": f"{_ALWAYS} GROUPING",
    "GROUPING": f"{_ALWAYS} AWAITING_APPROVAL SEARCHING TRAINING",
    "AWAITING_APPROVAL": "STARTING PAUSED FAILED CANCELLED",
    "SEARCHING": f"{_ALWAYS} TRAINING",
    "TRAINING": f"{_ALWAYS} PUBLISHING",
    "PUBLISHING": f"{_ALWAYS} SUCCEEDED PARTIALLY_SUCCEEDED",
    "PAUSED": "STARTING FAILED CANCELLED",
}


def upgrade() -> None:
    known = ", ".join(f"'{old} -> {new}'" for old, news in _MOVES.items() for new in news.split())
    refused = f"OLD.state <> NEW.state AND OLD.state || ' -> ' || NEW.state NOT IN ({known})"
    if op.get_bind().dialect.name == "postgresql":
        said = "'illegal move of a job: ' || OLD.state || ' -> ' || NEW.state"
        op.execute(
            "CREATE FUNCTION refuse_move() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION USING MESSAGE = {said}, ERRCODE = 'check_violation'; END $$"
        )
        then = "EXECUTE FUNCTION refuse_move()"
    else:
        then = "BEGIN SELECT RAISE(ABORT, 'illegal move of a job'); END"
    op.execute(f"CREATE TRIGGER jobs_move BEFORE UPDATE OF state ON jobs FOR EACH ROW WHEN ({refused}) {then}")
