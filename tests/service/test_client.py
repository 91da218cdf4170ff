"""The Python client, against a real server and against connections that break."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from service.artifacts import JobFiles
from service.client import ApiError, AsyncCohort, BundleBroken, Cohort, Unreachable
from service.states import JobState

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object


@pytest.fixture
def client(live_service: LiveService) -> Iterator[Cohort]:
    with Cohort(live_service.url, live_service.key) as client:
        yield client


def test_a_job_can_be_given_as_a_path_a_text_a_dict_or_a_spec(client: Cohort, live_service: LiveService) -> None:
    spec = client.submit(live_service.spec).spec
    text = live_service.spec.read_text()
    for given in (str(live_service.spec), text, text.encode(), spec, spec.model_dump()):
        assert client.submit(given).spec == spec
    assert len(list(client.jobs(page=2))) == 6


def test_the_same_key_submits_once(client: Cohort, live_service: LiveService) -> None:
    first = client.submit(live_service.spec, idempotency_key="k")
    assert client.submit(live_service.spec, idempotency_key="k").id == first.id
    assert client.submit(live_service.spec).id != first.id


def test_a_refusal_carries_what_the_service_said(client: Cohort) -> None:
    with pytest.raises(ApiError, match="There is no job") as refused:
        client.job("job-000000000000")
    assert refused.value.status == 404
    assert refused.value.problem.type == "urn:cohort:problem:job-not-found"


def test_validation_and_wishes_go_through(client: Cohort, live_service: LiveService) -> None:
    assert client.validate(live_service.spec).valid
    assert not client.validate("name: [\n").valid
    job = client.submit(live_service.spec).id
    assert client.pause(job).desired == "pause"
    assert client.resume(job).desired == "run"
    assert client.cancel(job).desired == "cancel"


def test_everything_a_finished_job_left_can_be_read(client: Cohort, live_service: LiveService) -> None:
    job = live_service.finish(live_service.submitted())
    assert client.wait(job, timeout=5).state == JobState.SUCCEEDED
    assert client.groups(job).groups[0].why == "a and b agree."
    assert client.similarity(job).order == ["b", "a"]
    assert client.plan(job)["task_names"] == ["a", "b"]
    assert [metric.value for metric in client.metrics(job)] == [0.875]
    assert client.results(job).table[0].grouped == 0.75
    assert client.log(job, "g1") == ("one line\n", 9)
    assert client.report(job) == "<h1>Report</h1>"
    assert "logs/g1.log" in [file.path for file in client.artifacts(job)]
    assert [event.seq for event in client.watch(job)] == [event.seq for event in client.events(job)]
    assert client.ready()["ready"] is True


def test_waiting_too_long_says_where_the_job_stands(client: Cohort, live_service: LiveService) -> None:
    job = live_service.submitted()
    with pytest.raises(TimeoutError, match="is QUEUED after 0 s"):
        client.wait(job, timeout=0)


def test_a_pulled_bundle_is_what_the_manifest_says(client: Cohort, live_service: LiveService, tmp_path: Path) -> None:
    job = live_service.finish(live_service.submitted())
    folder = client.pull(job, tmp_path / "bundle")
    assert (folder / "groups/g1/learned.txt").read_text() == "learned numbers"
    assert (folder / "manifest.json").is_file()


def test_a_damaged_file_is_refused_and_no_manifest_is_left(
    client: Cohort, live_service: LiveService, tmp_path: Path
) -> None:
    job = live_service.finish(live_service.submitted())
    files = JobFiles(live_service.control_plane.settings.storage, job)
    client.pull(job, tmp_path / "bundle")
    (tmp_path / "bundle/groups/g1/learned.txt").unlink()
    files.write_text("bundle/groups/g1/learned.txt", "other numbers")
    with pytest.raises(BundleBroken, match=r"learned\.txt: its sha256 is"):
        client.pull(job, tmp_path / "bundle")
    assert not (tmp_path / "bundle/manifest.json").exists()
    assert not (tmp_path / "bundle/groups/g1/learned.txt").exists()


@pytest.mark.parametrize("path", ["../out", "/out", "a/../../out", "..\\out", ""])
def test_a_manifest_cannot_write_outside_the_folder(
    client: Cohort, live_service: LiveService, tmp_path: Path, path: str
) -> None:
    job = live_service.finish(live_service.submitted())
    files = JobFiles(live_service.control_plane.settings.storage, job)
    files.write_text("bundle/manifest.json", json.dumps({"files": {path: {"sha256": "0" * 64}}}))
    with pytest.raises(BundleBroken, match="no path inside a bundle"):
        client.pull(job, tmp_path / "bundle")


def test_an_unfinished_job_has_no_bundle(client: Cohort, live_service: LiveService, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"manifest\.json"):
        client.pull(live_service.submitted(), tmp_path)


class Breaking(httpx2.BaseTransport):
    """Lets a request through only after `failures` that broke; `how` breaks one."""

    def __init__(self, failures: int, how: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self._real = httpx2.HTTPTransport()
        self._how = how
        self.left = failures
        self.seen = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.seen += 1
        if self.left > 0:
            self.left -= 1
            return self._how(request)
        return self._real.handle_request(request)

    def close(self) -> None:
        self._real.close()


def refuse(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


def unavailable(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(503, headers={"Retry-After": "2"}, request=request)


@pytest.mark.parametrize("how", [refuse, unavailable])
def test_a_broken_connection_is_tried_again_and_makes_no_second_job(
    live_service: LiveService, how: Callable[[httpx2.Request], httpx2.Response]
) -> None:
    pauses: list[float] = []
    transport = Breaking(3, how)
    with Cohort(live_service.url, live_service.key, transport=transport, sleep=pauses.append) as client:
        client.submit(live_service.spec)
        assert len(list(client.jobs())) == 1
    assert len(pauses) == 3
    assert how is refuse or min(pauses) >= 2


def test_an_answer_that_got_lost_makes_no_second_job(live_service: LiveService) -> None:
    real = httpx2.HTTPTransport()

    def lose(request: httpx2.Request) -> httpx2.Response:
        real.handle_request(request).close()
        raise httpx2.ReadError("lost", request=request)

    transport = Breaking(2, lose)
    with Cohort(live_service.url, live_service.key, transport=transport, sleep=lambda _: None) as client:
        job = client.submit(live_service.spec)
        assert [each.id for each in client.jobs()] == [job.id]
    real.close()


def test_a_service_that_is_not_there_is_given_up_with_a_hint() -> None:
    transport = Breaking(100, refuse)
    with Cohort("http://127.0.0.1:1", transport=transport, sleep=lambda _: None, tries=3) as client:
        with pytest.raises(Unreachable, match="cohort up"):
            client.job("job-000000000000")
        assert transport.seen == 3
        with pytest.raises(Unreachable):
            list(client.watch("job-000000000000"))


class Cutting(httpx2.BaseTransport):
    """Cuts every answer after some bytes, in the middle of whatever is there."""

    def __init__(self, size: int) -> None:
        self._real = httpx2.HTTPTransport()
        self._size = size
        self.requests = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        answer = self._real.handle_request(request)
        text = answer.read()
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=_Cut(text[: self._size]))

    def close(self) -> None:
        self._real.close()


class _Cut(httpx2.SyncByteStream):
    def __init__(self, text: bytes) -> None:
        self._text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self._text
        raise httpx2.ReadError("cut")


@pytest.mark.parametrize("size", [500, 700, 1111])
def test_watching_over_a_connection_that_keeps_breaking_misses_and_repeats_nothing(
    live_service: LiveService, size: int
) -> None:
    job = live_service.submitted()
    for number in range(20):
        live_service.store.add_event(job, "note", f"event {number}\nof two lines")
    live_service.finish(job)
    transport = Cutting(size)
    with Cohort(live_service.url, live_service.key, transport=transport, sleep=lambda _: None) as client:
        seen = []
        for event in client.watch(job):
            seen.append(event.seq)
            if seen[-1] == len(live_service.store.events(job)):
                break
    assert seen == [event.seq for event in live_service.store.events(job)]
    assert transport.requests > 3


def test_the_async_client_does_the_same(live_service: LiveService, tmp_path: Path) -> None:
    async def story() -> None:
        async with AsyncCohort(live_service.url, live_service.key) as client:
            job = (await client.submit(live_service.spec)).id
            live_service.finish(job)
            assert (await client.wait(job, timeout=5)).is_finished
            assert [event.seq async for event in client.watch(job)] == [e.seq for e in await client.events(job)]
            assert [each.id async for each in client.jobs()] == [job]
            assert [metric.step async for metric in client.metrics(job)] == [4]
            assert (await client.pull(job, tmp_path / "bundle") / "manifest.json").is_file()
            with pytest.raises(ApiError):
                await client.cancel(job)

    asyncio.run(story())


def test_both_clients_have_the_same_verbs() -> None:
    verbs = {name for name in vars(Cohort) if not name.startswith("_")} - {"close"}
    assert verbs == {name for name in vars(AsyncCohort) if not name.startswith("_")} - {"aclose"}


@pytest.mark.parametrize("module", ["service.client", "service.cli"])
def test_client_and_command_start_without_torch_ray_or_a_database(module: str) -> None:
    heavy = ["torch", "ray", "open_clip", "sqlalchemy", "fastapi", "sklearn"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
