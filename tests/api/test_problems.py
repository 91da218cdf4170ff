"""Every error is a problem that says what to do."""

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.problems import STATUS, status_of
from service import errors
from service.control_plane import ControlPlane
from service.reading import MAX_BYTES
from service.settings import Settings

YAML = {"Content-Type": "application/yaml"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/nowhere", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/events", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/events", {"Accept": "text/event-stream"}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/groups", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/similarity", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/metrics", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/results", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/plan", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/artifacts", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/artifacts/x", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/report", {}, "", 404),
        ("GET", "/v1/jobs/job-000000000000/groups/g1/logs", {}, "", 404),
        ("POST", "/v1/jobs/job-000000000000/cancel", {}, "", 404),
        ("DELETE", "/v1/jobs", {}, "", 405),
        ("POST", "/v1/jobs", YAML, "x" * (MAX_BYTES + 1), 413),
        ("POST", "/v1/jobs", {"Content-Type": "text/plain"}, "name: x", 415),
        ("POST", "/v1/jobs", {}, "", 415),
        ("POST", "/v1/jobs", YAML, "- a list", 422),
        ("POST", "/v1/jobs", {"Content-Type": "application/json"}, "name: yaml", 422),
        ("POST", "/v1/jobs/job-000000000000/plans/x/approve", {}, "", 404),
        ("POST", "/v1/jobs/job-000000000000/plans/99999999999999999999/approve", {}, "", 404),
        ("GET", "/v1/jobs", {"Authorization": "Bearer cohort_wrong"}, "", 401),
    ],
)
def test_every_refusal_is_a_problem(
    api: TestClient, method: str, path: str, headers: dict[str, str], body: str, status: int
) -> None:
    answer = api.request(method, path, headers=headers, content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["instance"] == path
    assert problem["title"]
    assert len(problem["detail"]) > 20


def test_a_method_that_is_not_possible_names_those_that_are(api: TestClient) -> None:
    answer = api.delete("/v1/jobs")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]


def test_a_body_of_unknown_length_is_cut_off(api: TestClient) -> None:
    read = 0

    def endless():
        nonlocal read
        for _ in range(100):
            read += 2**16
            yield b"x" * 2**16

    answer = api.post("/v1/jobs", content=endless(), headers=YAML)
    assert answer.status_code == 413


def test_a_fault_of_ours_tells_no_internals(control_plane: ControlPlane, key: str) -> None:
    app = create_app(control_plane)

    @app.get("/broken")
    def broken() -> None:
        raise ValueError("secret path /srv/x")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/broken")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_every_error_of_the_service_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CohortError)]
    assert {status_of(kind("x")) for kind in kinds} <= {404, 409, 422, 500, 503}
    assert status_of(KeyError("x")) == 500
    assert set(STATUS) <= set(kinds)


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer cohort_wrong", "Basic !!!", "Digest x"])
def test_no_key_no_answer(control_plane: ControlPlane, key: str, authorization: str | None) -> None:
    with TestClient(create_app(control_plane)) as client:
        for path in ("/v1/jobs", "/v1/jobs/job-000000000000", "/v1/jobs/job-000000000000/artifacts/x"):
            answer = client.get(path, headers={"Authorization": authorization} if authorization else {})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_browser_may_read_with_the_key_as_password_but_not_write(control_plane: ControlPlane, key: str) -> None:
    with TestClient(create_app(control_plane)) as client:
        asked = client.get("/v1/jobs", headers={"Accept": "text/html"})
        assert asked.headers["www-authenticate"].startswith("Basic")
        assert client.get("/v1/jobs", auth=("anybody", key)).status_code == 200
        assert client.post("/v1/jobs/job-000000000000/cancel", auth=("anybody", key)).status_code == 401


def test_a_revoked_key_is_refused(api: TestClient, control_plane: ControlPlane) -> None:
    control_plane.store.revoke_key(control_plane.store.list_keys()[0].prefix)
    assert api.get("/v1/jobs").status_code == 401


def test_a_service_without_keys_serves_only_its_own_machine(control_plane: ControlPlane) -> None:
    settings = control_plane.settings.model_copy(update={"no_auth": True})
    control_plane.settings = settings
    app = create_app(control_plane)
    with TestClient(app, base_url="http://127.0.0.1:8080") as client:
        assert client.get("/v1/jobs").status_code == 200
        assert client.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/v1/jobs", headers={"Origin": "https://evil.example"}).status_code == 403
        assert client.get("/v1/jobs", headers={"Origin": "http://localhost:8080"}).status_code == 200


def test_a_service_without_keys_refuses_to_face_the_network(control_plane: ControlPlane) -> None:
    values = control_plane.settings.model_dump() | {"no_auth": True, "host": "0.0.0.0"}
    control_plane.settings = Settings.model_validate(values)
    with pytest.raises(ValueError, match=r"no_auth with host='0\.0\.0\.0'"):
        create_app(control_plane)
