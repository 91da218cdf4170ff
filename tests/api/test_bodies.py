"""Laws of what may be sent: on every route, too much and too deep is refused in words, whatever it says it is."""

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service.control_plane import ControlPlane
from service.roles import Role
from tests.api.conftest import run_to_the_end
from tests.api.test_access import filled, routes

DEEP = 10_000
MEGABYTE = 2**20
BODIES = {
    "empty": b"",
    "one": b"{",
    "deep lists": b'{"name": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"name": ' * DEEP + b"1" + b"}" * DEEP,
    "deep changes": b'{"overrides": ' + b'{"a": ' * 600 + b"1" + b"}" * 601,
    "deep, unclosed": b"[" * DEEP,
    "just too long": b'{"name": "' + b"x" * MEGABYTE + b'"}',
    "64 MB": b" " * (64 * MEGABYTE),
    "wide": b'{"tasks": [' + b"{}," * 100_000 + b"{}]}",
    "many digits": b'{"name": ' + b"9" * 100_000 + b"}",
    "no text": bytes(range(256)),
    "half a character": b'{"name": "\\ud800"}',
    "many hexadecimal digits": b"name: x\npriority: 0x" + b"f" * 6000,
    "a fraction to the base 60": b"name: x\npriority: 1" + b":1" * 400 + b".5",
    "a number to the base 60": b"name: x\npriority: 1" + b":1" * 120_000,
}
LONG = {"just too long", "64 MB"}
KINDS = ("application/json", "application/yaml")


@pytest.fixture
def admin(control_plane: ControlPlane) -> TestClient:
    key = control_plane.store.create_key("all", role=Role.ADMIN)
    headers = {"Authorization": f"Bearer {key}"}
    return TestClient(create_app(control_plane), headers=headers, raise_server_exceptions=False)


@pytest.mark.parametrize("kind", KINDS)
def test_no_body_breaks_a_route(admin: TestClient, control_plane: ControlPlane, kind: str) -> None:
    job = run_to_the_end(control_plane)
    described = admin.get("/openapi.json").json()["paths"]
    sent = [(method, path) for method, path in routes(admin) if "requestBody" in described[path][method.lower()]]
    assert len(sent) >= 6
    for name, body in BODIES.items():
        for method, path in sent:
            answer = admin.request(method, filled(path, job), content=body, headers={"Content-Type": kind})
            told = (name, method, path, answer.status_code, answer.text[:300])
            if name not in LONG and path == "/v1/jobs/validate":  # whose answer is what is wrong
                assert answer.json()["valid"] is False, told
            else:
                assert answer.status_code in ({413} if name in LONG else {422, 409}), told
                assert answer.headers["content-type"] == "application/problem+json", told
            assert len(answer.content) < 64 * 1024, "a refusal does not repeat what it refuses"


def test_a_body_of_another_kind_is_refused_unread(admin: TestClient) -> None:
    for kind in ("application/x-python-pickle", "application/octet-stream", "multipart/form-data", "text/html", ""):
        answer = admin.post("/v1/jobs", content=b"x" * MEGABYTE, headers={"Content-Type": kind})
        assert answer.status_code == 415


def test_a_stranger_is_refused_before_anything_is_read(control_plane: ControlPlane) -> None:
    client = TestClient(create_app(control_plane))
    for method, path in routes(client):
        if method != "GET":
            headers = {"Content-Type": "application/json"}
            answer = client.request(method, filled(path, "job-x"), content=BODIES["64 MB"], headers=headers)
            assert answer.status_code == 401, (method, path)
