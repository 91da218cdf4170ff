"""An S3 server of our own on loopback (moto), whose answers can be made to fail, and storages of both kinds.

It keeps everything in memory, in a thread of the tests; other processes reach it by its address.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from workers.storage import open_place

SECRET = "canary-secret-of-the-object-store"


@dataclass
class ObjectStore:
    """The server.  `faults`: what befalls the next requests of a method, e.g. {"PUT": ["503", "503"]}: `503`, `slow`
    (`slow_seconds`), or `cut`: the connection ends within the answer."""

    url: str = ""
    faults: dict[str, list[str]] = field(default_factory=dict)
    slow_seconds: float = 3.0
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def options(self) -> dict[str, Any]:
        """fsspec's, to reach it with."""
        return {
            "key": "tests",
            "secret": SECRET,
            "client_kwargs": {"endpoint_url": self.url, "region_name": "us-east-1"},
            "config_kwargs": {"read_timeout": 1, "connect_timeout": 2, "retries": {"max_attempts": 1}},
        }

    def make_bucket(self) -> str:
        """The URI of a new place in a new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        assert requests.put(f"{self.url}/{name}", timeout=30).ok
        return f"s3://{name}/cohort"

    def place(self) -> Path:
        """A new place, opened."""
        return open_place(self.make_bucket(), self.options)

    def wrap(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """The application, with the faults before it."""

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            method = environ["REQUEST_METHOD"]
            self.requests[method] += 1
            fault = self.faults[method].pop(0) if self.faults.get(method) else ""
            if fault == "503":
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                if method == "HEAD":
                    return []
                return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
            if fault == "slow":
                time.sleep(self.slow_seconds)
            if fault == "cut":
                return _cut(app(environ, start_response))
            return app(environ, start_response)

        return answer


def _cut(body: Iterable[bytes]) -> Iterator[bytes]:
    content = b"".join(body)
    yield content[: len(content) // 2]
    raise ConnectionAbortedError("the tests ended this answer in its middle")


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """One server for all tests; every test takes a bucket of its own."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Nothing."""

    store = ObjectStore()
    app = store.wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="object-store", daemon=True)
    thread.start()
    yield store
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty place of each kind."""
    if request.param == "folder":
        return tmp_path / "storage"
    found: ObjectStore = request.getfixturevalue("object_store")
    found.faults.clear()
    return found.place()
