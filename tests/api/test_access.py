"""Laws of who may do what: roles on every route, tenants that cannot see each other, keys that end, an honest log."""

from collections import Counter
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.audit import REFUSALS_PER_MINUTE
from service.control_plane import ControlPlane
from service.errors import DatabaseUnavailable
from service.roles import Role
from service.store import KeyInfo
from tests.api.conftest import SPEC, YAML, run_to_the_end

FOR_THE_HOUSE = {"/v1/keys", "/v1/audit", "/v1/tenants/{tenant}/quota", "/dashboard/{path}"}
OPEN = {"/livez", "/readyz", "/metrics", "/v1/links/{token}/{name}"}


def as_(client: TestClient, control_plane: ControlPlane, role: Role, tenant: str = "default") -> dict[str, str]:
    key = control_plane.store.create_key(f"{role} of {tenant}", tenant=tenant, role=role)
    return {"Authorization": f"Bearer {key}"}


def routes(client: TestClient) -> list[tuple[str, str]]:
    """(method, path) of everything that the API serves and describes."""
    paths = client.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods if path not in OPEN]


def filled(path: str, job_id: str) -> str:
    values = {"job_id": job_id, "number": "0", "group": "g1", "group_id": "g1", "path": "bundle/data.txt"}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    return path


@pytest.fixture
def client(control_plane: ControlPlane) -> TestClient:
    return TestClient(create_app(control_plane), base_url="http://localhost")


def test_every_route_but_the_machines_own_asks_for_a_key(client: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    assert len(routes(client)) > 25
    for method, path in routes(client):
        for headers in ({}, {"Authorization": "Bearer cohort_0_0"}):
            answer = client.request(method, filled(path, job), headers=headers)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_foreign_job_answers_like_one_that_never_was_on_every_route(
    client: TestClient, control_plane: ControlPlane
) -> None:
    job = run_to_the_end(control_plane)
    stranger = as_(client, control_plane, Role.SUBMITTER, "others")
    about_jobs = [(method, path) for method, path in routes(client) if "{job_id}" in path]
    assert len(about_jobs) >= 20
    for method, path in about_jobs:
        foreign = client.request(method, filled(path, job), headers=stranger)
        missing = client.request(method, filled(path, "job-000000000000"), headers=stranger)
        assert (foreign.status_code, missing.status_code) == (404, 404), (method, path)
        told = [answer.json() for answer in (foreign, missing)]
        assert told[0]["detail"].replace(job, "") == told[1]["detail"].replace("job-000000000000", "")
        assert told[0]["type"] == told[1]["type"]
    owner = as_(client, control_plane, Role.SUBMITTER)
    looks = {filled(path, job) for _, path in about_jobs}
    theirs = {path: client.head(path, headers=stranger).status_code for path in looks}
    assert set(theirs.values()) == {404, 405}  # 405: nobody may look at it this way
    own = [path for path in looks if client.head(path, headers=owner).status_code == 200]
    assert len(own) == 2
    assert {theirs[path] for path in own} == {404}
    assert client.get("/v1/jobs", headers=stranger).json()["jobs"] == []
    asked = client.get("/v1/jobs", params={"tenant": "default"}, headers=stranger)
    assert asked.json()["jobs"] == []


def test_jobs_belong_to_the_tenant_of_the_key_and_so_do_idempotency_keys(
    client: TestClient, control_plane: ControlPlane
) -> None:
    made = {}
    for tenant in ("red", "blue"):
        headers = as_(client, control_plane, Role.SUBMITTER, tenant) | YAML | {"Idempotency-Key": "one"}
        made[tenant] = client.post("/v1/jobs", content=SPEC, headers=headers).json()
        assert made[tenant]["tenant"] == tenant
        assert [job["id"] for job in client.get("/v1/jobs", headers=headers).json()["jobs"]] == [made[tenant]["id"]]
    operator = as_(client, control_plane, Role.OPERATOR, "house")
    assert len(client.get("/v1/jobs", headers=operator).json()["jobs"]) == 2
    red = client.get("/v1/jobs", params={"tenant": "red"}, headers=operator).json()["jobs"]
    assert [job["id"] for job in red] == [made["red"]["id"]]
    assert client.post(f"/v1/jobs/{made['blue']['id']}/cancel", headers=operator).status_code == 202


def test_viewers_look_and_change_nothing(client: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    viewer = as_(client, control_plane, Role.VIEWER)
    for method, path in routes(client):
        answer = client.request(method, filled(path, job), headers=viewer)
        allowed = method == "GET" and path not in FOR_THE_HOUSE
        assert (answer.status_code != 403) == allowed, (method, path, answer.text)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SUBMITTER, Role.OPERATOR])
def test_only_admins_have_to_do_with_keys(client: TestClient, control_plane: ControlPlane, role: Role) -> None:
    headers = as_(client, control_plane, role)
    prefix = control_plane.store.list_keys()[0].prefix
    calls: list[tuple[str, str]] = [
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("POST", f"/v1/keys/{prefix}/rotate"),
        ("DELETE", f"/v1/keys/{prefix}"),
        ("GET", "/v1/audit"),
    ]
    for method, path in calls:
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 403
        assert f"has the role {role}; this takes at least admin" in answer.json()["detail"]


@pytest.fixture
def admin(client: TestClient, control_plane: ControlPlane) -> dict[str, str]:
    return as_(client, control_plane, Role.ADMIN)


def made(client: TestClient, admin: dict[str, str], **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/keys", json={"name": "a key"} | asked, headers=admin)
    assert answer.status_code == 201, answer.text
    return answer.json()


def whoami(client: TestClient, key: str) -> Any:
    answer = client.get("/v1/whoami", headers={"Authorization": f"Bearer {key}"})
    return answer.json() if answer.status_code == 200 else answer.status_code


def test_a_key_is_made_shown_once_and_revoked(client: TestClient, admin: dict[str, str]) -> None:
    created = made(client, admin, name="ci", tenant="red", role="viewer")
    key = created["key"]
    assert whoami(client, key) == {"tenant": "red", "role": "viewer", "name": "ci", "key": created["prefix"]}
    listed = client.get("/v1/keys", headers=admin)
    assert key.split("_")[2] not in listed.text
    assert created["prefix"] in [each["prefix"] for each in listed.json()["keys"]]
    for _ in range(2):
        assert client.delete(f"/v1/keys/{created['prefix']}", headers=admin).status_code == 200
    assert whoami(client, key) == 401
    assert client.delete("/v1/keys/nothing", headers=admin).status_code == 404


def test_a_rotated_key_works_as_long_as_it_was_said_and_no_longer(
    client: TestClient, control_plane: ControlPlane, admin: dict[str, str]
) -> None:
    time = control_plane.store.now()
    control_plane.store.now = lambda: time
    old = made(client, admin, role="operator", expires_in=1000)
    new = client.post(f"/v1/keys/{old['prefix']}/rotate", params={"overlap": 60}, headers=admin).json()
    assert (new["name"], new["role"], new["expires_at"]) == (old["name"], "operator", old["expires_at"])
    time += 59
    assert whoami(client, old["key"])["key"] == old["prefix"]
    assert whoami(client, new["key"])["key"] == new["prefix"]
    time += 2
    assert whoami(client, old["key"]) == 401
    assert client.post(f"/v1/keys/{old['prefix']}/rotate", headers=admin).status_code == 422
    time += 1000
    assert whoami(client, new["key"]) == 401


@pytest.mark.parametrize(
    "asked",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": "a", "role": "god"},
        {"name": "a", "tenant": "../x"},
        {"name": "a", "expires_in": -1},
        {"name": "a", "expires_in": 1e300},
        {"name": "a", "more": 1},
        [],
    ],
)
def test_a_key_that_cannot_be_is_refused_in_words(client: TestClient, admin: dict[str, str], asked: Any) -> None:
    answer = client.post("/v1/keys", json=asked, headers=admin)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_the_log_tells_who_changed_what_and_who_was_refused(
    client: TestClient, control_plane: ControlPlane, admin: dict[str, str]
) -> None:
    submitter = as_(client, control_plane, Role.SUBMITTER, "red")
    job = client.post("/v1/jobs", content=SPEC, headers=submitter | YAML).json()["id"]
    client.get(f"/v1/jobs/{job}", headers=submitter)
    client.post(f"/v1/jobs/{job}/cancel", headers=submitter)
    client.get("/v1/keys", headers=submitter)
    client.get("/v1/jobs")
    page = client.get("/v1/audit", headers=admin).json()
    told = [(entry["action"], entry["job_id"], entry["status"], entry["tenant"]) for entry in page["entries"]]
    assert told == [
        ("GET /v1/jobs", None, 401, None),
        ("GET /v1/keys", None, 403, "red"),
        ("POST /v1/jobs/{job_id}/cancel", job, 202, "red"),
        ("POST /v1/jobs", None, 202, "red"),
    ]
    assert page["entries"][2]["role"] == "submitter"
    assert page["entries"][2]["address"] == "testclient"
    first = client.get("/v1/audit", params={"limit": 3, "tenant": "red"}, headers=admin).json()
    assert (len(first["entries"]), first["next"]) == (3, None)
    two = client.get("/v1/audit", params={"limit": 2}, headers=admin).json()
    rest = client.get("/v1/audit", params={"before": two["next"]}, headers=admin).json()
    assert [entry["id"] for entry in two["entries"] + rest["entries"]] == [entry["id"] for entry in page["entries"]]


def test_a_key_whose_use_cannot_be_written_down_reads_on(
    client: TestClient, control_plane: ControlPlane, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(key: KeyInfo) -> None:
        raise DatabaseUnavailable("The disk is full.")

    monkeypatch.setattr(control_plane.store, "note_use", full)
    assert control_plane.store.use_is_to_be_noted(control_plane.store.list_keys()[0])
    assert client.get("/v1/jobs", headers=admin).status_code == 200


def test_a_flood_of_refusals_does_not_fill_the_log(
    client: TestClient, control_plane: ControlPlane, admin: dict[str, str]
) -> None:
    submitter = as_(client, control_plane, Role.SUBMITTER, "red")
    for _ in range(REFUSALS_PER_MINUTE + 20):
        assert client.post("/v1/jobs", headers={"Authorization": "Bearer guessed"} | YAML).status_code == 401
    assert client.get("/v1/keys", headers=submitter).status_code == 403
    client.post("/v1/jobs", content=SPEC, headers=submitter | YAML)
    page = client.get("/v1/audit", params={"limit": 500}, headers=admin).json()
    assert Counter(entry["status"] for entry in page["entries"]) == {401: REFUSALS_PER_MINUTE, 403: 1, 202: 1}


def test_a_key_that_asks_too_often_waits_and_others_do_not(control_plane: ControlPlane) -> None:
    control_plane.settings = control_plane.settings.model_copy(update={"requests_per_minute": 5})
    client = TestClient(create_app(control_plane), base_url="http://localhost")
    eager, calm = (as_(client, control_plane, Role.VIEWER) for _ in range(2))
    assert [client.get("/v1/whoami", headers=eager).status_code for _ in range(7)] == [200] * 5 + [429] * 2
    answer = client.get("/v1/whoami", headers=eager)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert "More than 5 requests within a minute" in answer.json()["detail"]
    assert client.get("/v1/whoami", headers=calm).status_code == 200


@pytest.mark.parametrize("number", ["x", "99999999999999999999"])
def test_a_number_that_is_none_is_refused_where_the_job_is_there(
    client: TestClient, control_plane: ControlPlane, number: str
) -> None:
    job = run_to_the_end(control_plane)
    answer = client.post(f"/v1/jobs/{job}/plans/{number}/approve", headers=as_(client, control_plane, Role.SUBMITTER))
    assert answer.status_code == 422
