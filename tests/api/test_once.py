"""Laws of the Idempotency-Key: however often and however many at once send a job, it is one job."""

import asyncio
import os
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from api.app import create_app
from service.control_plane import ControlPlane
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from tests.api.conftest import SPEC, YAML
from tests.databases import Stores

pytestmark = pytest.mark.slow

AT_ONCE = 64
ROUNDS = int(os.environ.get("COHORT_TEST_IDENTICAL_ROUNDS", "100"))


@pytest.fixture
def control_plane(make_store: Stores, tmp_path: Path) -> ControlPlane:
    for task in "ab":
        (tmp_path / "data" / task).mkdir(parents=True)
    values = {"home": tmp_path, "data_roots": [str(tmp_path / "data")], "no_auth": True, "requests_per_minute": 0}
    return ControlPlane(Settings.model_validate(values), store=make_store(), ray_jobs=FakeRayJobs())


def client_of(control_plane: ControlPlane) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(control_plane))
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=120)


def test_identical_submissions_at_once_are_one_job(control_plane: ControlPlane) -> None:
    """A share of the rounds on every kind of database."""

    async def story() -> None:
        async with client_of(control_plane) as client:
            for number in range(ROUNDS // 3 + 1):
                headers = YAML | {"Idempotency-Key": f"round {number}"}
                calls = (client.post("/v1/jobs", content=SPEC, headers=headers) for _ in range(AT_ONCE))
                answers = await asyncio.gather(*calls)
                assert {answer.status_code for answer in answers} == {202}
                assert len({answer.json()["id"] for answer in answers}) == 1
                assert Counter("idempotent-replayed" in answer.headers for answer in answers) == {
                    True: AT_ONCE - 1,
                    False: 1,
                }

    asyncio.run(story())
    jobs, _ = control_plane.store.list_jobs(limit=500)
    assert len(jobs) == ROUNDS // 3 + 1
    assert all([event.seq for event in control_plane.store.events(job.id)] == [1] for job in jobs)


def test_a_key_is_bound_to_its_body_and_a_body_to_no_key(control_plane: ControlPlane) -> None:
    async def story() -> None:
        async with client_of(control_plane) as client:
            for number in range(50):
                other = SPEC.replace("two-digits", f"other-{number}")
                headers = YAML | {"Idempotency-Key": f"{number}"}
                first, second = await asyncio.gather(
                    client.post("/v1/jobs", content=SPEC, headers=headers),
                    client.post("/v1/jobs", content=other, headers=headers),
                )
                assert sorted((first.status_code, second.status_code)) == [202, 422]
                refused = first if first.status_code == 422 else second
                assert refused.json()["type"] == "urn:cohort:problem:idempotency-conflict"
                keys = [YAML | {"Idempotency-Key": f"{number} {which}"} for which in "ab"]
                two = [await client.post("/v1/jobs", content=SPEC, headers=key) for key in keys]
                assert len({answer.json()["id"] for answer in two}) == 2

    asyncio.run(story())
    assert len(control_plane.store.list_jobs(limit=500)[0]) == 150
