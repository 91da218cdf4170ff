"""Laws of values that one database takes and another does not: no route breaks on them, whichever is used."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service.control_plane import ControlPlane
from service.ray_jobs import FakeRayJobs
from service.roles import Role
from service.settings import Settings
from service.spec import parse_spec
from service.store import Store
from tests.databases import Stores, shared

SPEC = parse_spec("{name: one, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")


@pytest.fixture
def store(make_store: Stores) -> Store:
    return make_store()


@pytest.fixture
def admin(store: Store, tmp_path: Path) -> TestClient:
    control_plane = ControlPlane(Settings(home=tmp_path), store=store, ray_jobs=FakeRayJobs())
    key = store.create_key("boss", role=Role.ADMIN)
    return TestClient(create_app(control_plane), headers={"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs?tenant=%00"),
        ("GET", "/v1/audit?tenant=%00"),
        ("GET", "/v1/jobs/JOB/metrics?group=%00"),
        ("GET", "/v1/jobs/JOB/metrics?after=9007199254740991"),
        ("GET", "/v1/jobs/JOB/events?after=9007199254740991"),
        ("GET", "/v1/audit?before=9007199254740991"),
        ("DELETE", "/v1/keys/%00"),
        ("POST", "/v1/keys/%00/rotate"),
        ("GET", "/v1/jobs/%00"),
    ],
)
def test_a_value_that_a_database_cannot_take_is_the_users_fault(
    admin: TestClient, store: Store, method: str, path: str
) -> None:
    answer = admin.request(method, path.replace("JOB", store.create_job(SPEC)[0].id))
    assert answer.status_code in (200, 404, 422), answer.text


def test_a_key_has_a_name_that_can_be_printed(admin: TestClient) -> None:
    for name in ("a\0b", "\x1b[2J", " "):
        answer = admin.post("/v1/keys", json={"name": name})
        assert answer.status_code == 422 and "printable" in answer.json()["detail"]


def test_whoever_is_refused_is_written_down_whatever_was_asked_for(admin: TestClient, store: Store) -> None:
    assert admin.get("/v1/jobs/%00", headers={"Authorization": "Bearer guessed"}).status_code == 401
    assert store.audit_log()[0].status == 401


@shared
def test_limits_that_are_set_at_the_same_time_are_set(admin: TestClient) -> None:
    with ThreadPoolExecutor(16) as pool:
        paths = [f"/v1/tenants/t{number // 8}/quota" for number in range(32)]
        found = list(pool.map(lambda path: admin.put(path, json={"max_running_jobs": 1}).status_code, paths))
    assert found == [200] * 32
