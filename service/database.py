"""The one way to the database: an engine, and transactions that read or write.

SQLite runs in WAL mode with BEGIN IMMEDIATE for writes, so that two writers queue up instead of failing half-way;
several processes (the control plane, every job's driver) share one file.  `sqlite://` is a database in memory, for one
process.  PostgreSQL needs none of this: rows are locked where a decision hangs on them.
"""

import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.pool import StaticPool

from service.crash_points import COMMITS
from service.errors import CohortError, DatabaseUnavailable
from service.schema import migrate
from service.tables import metadata
from workers import faults

log = logging.getLogger(__name__)

BUSY_MILLISECONDS = 30_000

_SILENT = "The database does not answer; the service's log says why. Try again soon."
_FULL = (
    "The disk that holds the database is full: nothing of this was written, and what is written can still be read. "
    "Make room there (delete jobs that are done with, or other files), then try again."
)
_DISK_FULL = "53100"
"""PostgreSQL's code for it."""


class Database:
    """Holds the engine; the store's parts are built on it."""

    def __init__(self, url: str, *, now: Callable[[], float] = time.time, patience: float = 0.0) -> None:
        """
        Args:
            now: gives the times that rows carry (seconds since 1970).
            patience: seconds for which a database that does not answer is asked again, before it is an error.
        """
        parsed = make_url(url)
        self.now = now
        self.watch: Callable[[str, float, bool], None] = lambda kind, seconds, answered: None
        """Hears of every transaction: `read` or `write`, its seconds, and whether the database answered."""
        self._patience = patience
        self._sqlite = parsed.get_backend_name() == "sqlite"
        self._in_memory = in_memory = self._sqlite and parsed.database in (None, "", ":memory:")
        # The database in memory is a single connection: its transactions take turns.
        self._turn = threading.RLock() if in_memory else nullcontext()
        options: dict[str, Any] = {"json_serializer": lambda value: json.dumps(_finite(value), allow_nan=False)}
        if not self._sqlite:
            options["pool_pre_ping"] = True  # connections from before its restart are replaced, unseen
            options["connect_args"] = {"client_encoding": "utf8"}  # one made as SQL_ASCII would answer in bytes
        else:
            options["connect_args"] = {"check_same_thread": False, "timeout": BUSY_MILLISECONDS / 1000}
        if in_memory:
            options["poolclass"] = StaticPool
        elif self._sqlite:
            Path(str(parsed.database)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._engine = create_engine(parsed, **options)
        if self._sqlite:
            event.listen(self._engine, "connect", _prepare)
            event.listen(self._engine, "begin", _begin)
        if in_memory:
            self.create_schema()

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    def create_schema(self) -> None:
        """Brings the tables to the present version.  The control plane calls it, before any driver runs.

        CohortError for a database that this version cannot take over.
        """
        if self._sqlite:
            with self._engine.connect() as connection:
                raw = connection.connection.dbapi_connection
                assert raw is not None
                raw.execute(
                    "PRAGMA journal_mode=WAL"
                )  # stays with the file; outside of a transaction by SQLite's rules
        with self.write() as connection:
            if self._in_memory:
                metadata.create_all(connection)  # what the migrations come to, at once (but triggers)
            else:
                migrate(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One look, on SQLite at one moment.  DatabaseUnavailable."""
        with self._watched("read"), self._turn, _told(), self._connected() as connection:
            if self._sqlite:
                with connection.begin():
                    yield connection
            else:  # every question sees what is committed by then, in a transaction too: spare its beginning and end
                yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def write(self, what: str = "") -> Iterator[Connection]:
        """All or nothing; on SQLite the only writer while it lasts, so keep it short.  DatabaseUnavailable: then nobody
        knows whether it was written, if the database fell silent at the end.

        `what` names the fault points right before and right after the commit; `crash_points` lists it.
        """
        assert not what or what in COMMITS, f"{what} is missing in service.crash_points"
        with (
            self._watched("write"),
            self._turn,
            _told(),
            self._connected().execution_options(cohort_writes=True) as connection,
            connection.begin(),
        ):
            yield connection
            if what:
                faults.point(f"store.{what}.commits")
        if what:
            faults.point(f"store.{what}.committed")

    def clock(self, connection: Connection) -> float:
        """Seconds since 1970 by the database's own clock, which all that share it agree on."""
        if self.dialect == "postgresql" and self.now is time.time:
            return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        return self.now()  # an SQLite file is shared on one machine only

    def ping(self) -> None:
        """DatabaseUnavailable if the database does not answer."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _watched(self, kind: str) -> Iterator[None]:
        began, answered = time.monotonic(), True
        try:
            yield
        except DatabaseUnavailable:
            answered = False
            raise
        finally:
            self.watch(kind, time.monotonic() - began, answered)

    def _connected(self) -> Connection:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._engine.connect()
            except OperationalError as error:
                if time.monotonic() >= deadline:
                    raise
                log.warning("the database does not answer, it is asked again: %s", error.orig)
                time.sleep(min(1.0, self._patience))


@contextmanager
def _told() -> Iterator[None]:
    """Trouble with the database itself, not with what was asked of it, in words."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        log.warning("the database does not answer: %s", error.orig)  # it names hosts and users: not for everybody
        raise DatabaseUnavailable(_FULL if _is_full(error.orig) else _SILENT) from error
    except DataError as error:  # what PostgreSQL refuses and SQLite takes
        raise CohortError(
            "A value was given that the database cannot keep: a text with a NUL character, or a number too large. "
            "Leave it out."
        ) from error


def _is_full(error: BaseException | None) -> bool:
    """Whether it is for want of room that the database did not write."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error, "sqlstate", None) == _DISK_FULL


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the sqlite3 module would begin transactions on its own, and too late
    connection.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")  # an accepted job survives a power cut


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("cohort_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _finite(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinities become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
