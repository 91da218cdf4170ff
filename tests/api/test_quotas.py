"""Laws of quotas and priorities over HTTP."""

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service.control_plane import ControlPlane
from service.roles import Role
from tests.api.conftest import SPEC, YAML

EMPTY = {
    "max_running_jobs": None,
    "max_devices": None,
    "max_storage_bytes": None,
    "max_priority": None,
    "running_jobs": 0,
    "devices": 0,
    "storage_bytes": 0,
}


@pytest.fixture
def admin(control_plane: ControlPlane) -> dict[str, str]:
    key = control_plane.store.create_key("admin", tenant="office", role=Role.ADMIN)
    return {"Authorization": f"Bearer {key}"}


def test_admins_limit_tenants_and_tenants_see_their_limits(api: TestClient, admin: dict[str, str]) -> None:
    there = "/v1/tenants/default/quota"
    assert api.get("/v1/quota").json() == {"tenant": "default", **EMPTY}
    limits = {"max_running_jobs": 2, "max_storage_bytes": 2**40}
    assert api.put(there, json=limits, headers=admin).json() == {"tenant": "default", **EMPTY, **limits}
    assert (
        api.get("/v1/quota").json() == api.get(there, headers=admin).json() == {"tenant": "default", **EMPTY} | limits
    )
    for _ in range(2):
        assert api.delete(there, headers=admin).json() == {"tenant": "default", **EMPTY}


def test_only_admins_see_and_set_the_quotas_of_tenants(api: TestClient) -> None:
    for answer in (
        api.get("/v1/tenants/default/quota"),
        api.put("/v1/tenants/default/quota", json={}),
        api.delete("/v1/tenants/default/quota"),
    ):
        assert answer.status_code == 403


@pytest.mark.parametrize(
    "body", [{"max_running_jobs": -1}, {"max_devices": 2**31}, {"other": 1}, {"max_priority": 101}]
)
def test_a_quota_that_is_none_is_refused(api: TestClient, admin: dict[str, str], body: dict[str, int]) -> None:
    answer = api.put("/v1/tenants/a/quota", json=body, headers=admin)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert api.put("/v1/tenants/A B/quota", json={}, headers=admin).status_code == 422


def test_what_a_quota_does_not_allow_is_a_conflict_in_words(
    api: TestClient, admin: dict[str, str], control_plane: ControlPlane
) -> None:
    api.put("/v1/tenants/default/quota", json={"max_priority": 3, "max_storage_bytes": 0}, headers=admin)
    answer = api.post("/v1/jobs", content=SPEC, headers=YAML)
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:cohort:problem:quota-exceeded")
    assert "its quota is 0" in answer.json()["detail"]
    api.put("/v1/tenants/default/quota", json={"max_priority": 3}, headers=admin)
    job = api.post("/v1/jobs", content=SPEC, headers=YAML).json()["id"]
    assert api.patch(f"/v1/jobs/{job}", json={"priority": 3}).json()["priority"] == 3
    assert api.patch(f"/v1/jobs/{job}", json={"priority": 4}).status_code == 409
    assert api.patch(f"/v1/jobs/{job}", json={"priority": 101}).status_code == 422
    assert api.patch(f"/v1/jobs/{job}", json={}).status_code == 422


def test_a_waiting_job_tells_its_place_in_the_queue(api: TestClient, control_plane: ControlPlane) -> None:
    first, second = (api.post("/v1/jobs", content=SPEC, headers=YAML).json() for _ in range(2))
    assert first["queue"] == {"waits_for": "Its turn.", "position": 1, "starts_at": None}
    api.patch(f"/v1/jobs/{second['id']}", json={"priority": 1})
    with TestClient(create_app(control_plane), headers=dict(api.headers)) as later:  # a look is a second old at most
        assert later.get(f"/v1/jobs/{second['id']}").json()["queue"]["position"] == 1
