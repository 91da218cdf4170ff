"""A service that is killed in the middle of a submission, and a client that sends it again: one job, every time."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from service.store import Store
from tests.api.conftest import SPEC, YAML
from tests.databases import Stores, shared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

INTERRUPTED = int(os.environ.get("COHORT_TEST_INTERRUPTED", "500"))
ANSWERED = 5


class Service:
    """A server that is killed and served on by the next one."""

    def __init__(self, url: str, home: Path) -> None:
        script = Path(__file__).with_name("forking_server.py")
        root = script.parents[2]
        self._process = subprocess.Popen(
            [sys.executable, str(script), url, str(home)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._url = f"http://127.0.0.1:{self._line()}"
        self._client = httpx2.Client(base_url=self._url, timeout=60, verify=False)
        self._serving: int | None = None

    def serve(self, plan: str) -> None:
        """The next one serves, with these faults; everything is sent to it over one connection, which dies with it."""
        self._client.close()
        self._client = httpx2.Client(base_url=self._url, timeout=60, verify=False)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{plan}\n")
        self._process.stdin.flush()
        self._serving = int(self._line())

    def kill(self) -> None:
        if self._serving is not None:
            os.kill(self._serving, signal.SIGKILL)

    def submit(self, key: str) -> str | None:
        """The job's id; None where no answer came."""
        try:
            headers = YAML | {"Idempotency-Key": key}
            answer = self._client.post("/v1/jobs", content=SPEC, headers=headers)
        except httpx2.TransportError:
            return None
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def close(self) -> None:
        self._process.kill()
        with suppress(ProcessLookupError):
            self.kill()
        self._process.communicate()
        self._client.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def service(make_store: Stores, tmp_path: Path) -> Iterator[Service]:
    for task in "ab":
        (tmp_path / task).mkdir()
    service = Service(make_store.url, tmp_path)
    yield service
    service.close()


@shared
def test_a_submission_that_is_interrupted_and_sent_again_is_one_job(service: Service, make_store: Stores) -> None:
    """Right before the commit and right after it, half of them on either database; a few more once it was answered."""
    num_interrupted = INTERRUPTED // 2
    count = num_interrupted + ANSWERED
    made: dict[str, str] = {}
    for number in range(count):
        passes = 1 if number == 0 else 2  # the submission that is sent again passes the point before
        points = ("store.create_job.commits", "store.create_job.committed")
        where = points[number % 2] if number < num_interrupted else None
        service.serve("" if where is None else f"{where}:kill@{passes}")
        if number:
            resent = service.submit(f"key {number - 1}")
            assert resent is not None and made.setdefault(f"key {number - 1}", resent) == resent
        answered = service.submit(f"key {number}")
        assert (answered is None) == (where is not None)
        if answered is not None:
            made[f"key {number}"] = answered
            service.kill()
    service.serve("")
    resent = service.submit(f"key {count - 1}")
    assert resent is not None and made.setdefault(f"key {count - 1}", resent) == resent
    store: Store = make_store()
    jobs, _ = store.list_jobs(limit=10 * count)
    assert len(jobs) == len(made) == count
    assert {job.id for job in jobs} == set(made.values())
    for job in jobs:
        assert [(event.seq, event.kind) for event in store.events(job.id)] == [(1, "state")]
