"""Laws of links to files: they open what they say, to anybody, until they end, and nothing else however bent."""

from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service.control_plane import ControlPlane
from service.roles import Role
from service.store import Store
from tests.api.conftest import make_control_plane, run_to_the_end


@pytest.fixture
def job(control_plane: ControlPlane) -> str:
    return run_to_the_end(control_plane)


@pytest.fixture
def stranger(control_plane: ControlPlane) -> TestClient:
    return TestClient(create_app(control_plane))


def link(api: TestClient, job: str, path: str = "bundle/data.txt", **params: int) -> str:
    answer = api.post(f"/v1/jobs/{job}/artifacts/{path}/url", params=params)
    assert answer.status_code == 201, answer.text
    return urlsplit(answer.json()["url"]).path


def test_a_link_opens_its_file_without_a_key(api: TestClient, stranger: TestClient, job: str) -> None:
    path = link(api, job)
    assert path.startswith("/v1/links/") and path.endswith("/data.txt")
    whole = stranger.get(path)
    assert (whole.status_code, whole.text) == (200, "0123456789")
    assert whole.headers["Cache-Control"] == "private, no-store"
    assert "sandbox" in whole.headers["Content-Security-Policy"]
    part = stranger.get(path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.text) == (206, "234")
    assert stranger.get(path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304


def test_a_link_ends_when_it_says(api: TestClient, stranger: TestClient, control_plane: ControlPlane, job: str) -> None:
    now = control_plane.store.now()
    control_plane.store.now = lambda: now
    told = api.post(f"/v1/jobs/{job}/artifacts/bundle/data.txt/url", params={"expires_in": 60}).json()
    assert datetime.fromisoformat(told["expires_at"]).timestamp() == pytest.approx(now + 60)
    path = urlsplit(told["url"]).path
    now += 59
    assert stranger.get(path).status_code == 200
    now += 1
    refused = stranger.get(path)
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")


@pytest.mark.parametrize("seconds", [0, -1, 7 * 86_400 + 1, "x"])
def test_a_link_lives_between_a_second_and_a_week(api: TestClient, job: str, seconds: object) -> None:
    answer = api.post(f"/v1/jobs/{job}/artifacts/bundle/data.txt/url", params={"expires_in": str(seconds)})
    assert answer.status_code == 422


def test_a_bent_link_opens_nothing(api: TestClient, stranger: TestClient, job: str) -> None:
    path = link(api, job)
    token = path.split("/")[3]
    for place in range(len(token)):
        bent = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        answer = stranger.get(f"/v1/links/{bent}/data.txt")
        # the last character of base64 carries bits that count for nothing
        assert answer.status_code == 403 or (place == len(token) - 1 and answer.text == "0123456789"), place
    for name in ("report.html", "manifest.json", "x"):
        assert stranger.get(f"/v1/links/{token}/{name}").status_code == 403
    for cut in ("", "x", token[:-5], token + "x", token.split(".")[0], "." * 3):
        assert stranger.get(f"/v1/links/{cut}/data.txt").status_code in (403, 404)


def test_a_link_ends_with_the_key_that_made_it(
    api: TestClient, stranger: TestClient, control_plane: ControlPlane, key: str, job: str
) -> None:
    path = link(api, job)
    control_plane.store.revoke_key(key.split("_")[1])
    assert stranger.get(path).status_code == 403


def test_a_link_ends_with_its_job(api: TestClient, stranger: TestClient, control_plane: ControlPlane, job: str) -> None:
    path = link(api, job)
    control_plane.store.delete(job, "not wanted any more")
    assert stranger.get(path).status_code == 403


def test_links_are_made_by_those_who_may_change_the_job_and_to_files_that_are_there(
    api: TestClient, stranger: TestClient, control_plane: ControlPlane, job: str
) -> None:
    def status(role: Role, tenant: str, path: str = "bundle/data.txt") -> int:
        key = control_plane.store.create_key("x", role=role, tenant=tenant)
        headers = {"Authorization": f"Bearer {key}"}
        return stranger.post(f"/v1/jobs/{job}/artifacts/{path}/url", headers=headers).status_code

    assert status(Role.SUBMITTER, "default") == 201
    assert status(Role.VIEWER, "default") == 403
    assert status(Role.ADMIN, "others") == 201
    assert status(Role.SUBMITTER, "others") == 404
    for path in ("nothing.txt", "..%2f..%2flink_secret", "bundle"):
        assert status(Role.SUBMITTER, "default", path) == 404


def test_another_service_makes_other_links_and_one_with_the_same_secret_the_same(
    tmp_path_factory: pytest.TempPathFactory, api: TestClient, control_plane: ControlPlane, job: str
) -> None:
    path = link(api, job)
    secret = control_plane.settings.home / "link_secret"
    assert secret.stat().st_mode & 0o777 == 0o600

    def opens(**settings: object) -> bool:
        other = make_control_plane(tmp_path_factory.mktemp("other"), **settings)
        other.store = control_plane.store
        return TestClient(create_app(other)).get(path).status_code == 200

    storage = control_plane.settings.storage
    assert not opens(storage=storage)
    assert opens(storage=storage, link_secret=secret.read_text())


def test_a_link_counts_as_a_request_of_its_key(control_plane: ControlPlane) -> None:
    control_plane.settings = control_plane.settings.model_copy(update={"requests_per_minute": 3})
    client = TestClient(create_app(control_plane))
    job = run_to_the_end(control_plane)
    key = control_plane.store.create_key("x")
    headers = {"Authorization": f"Bearer {key}"}
    path = urlsplit(client.post(f"/v1/jobs/{job}/artifacts/bundle/data.txt/url", headers=headers).json()["url"]).path
    assert [client.get(path).status_code for _ in range(4)] == [200, 200, 429, 429]


def test_without_keys_links_work_too(tmp_path_factory: pytest.TempPathFactory, finish: Callable[[], str]) -> None:
    control_plane = make_control_plane(tmp_path_factory.mktemp("open"), no_auth=True)
    assert isinstance(control_plane.store, Store)
    client = TestClient(create_app(control_plane), base_url="http://localhost")
    assert client.get(link(client, run_to_the_end(control_plane))).text == "0123456789"
