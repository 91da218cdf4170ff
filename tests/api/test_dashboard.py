"""Laws of the way to Ray's dashboard: operators look, by a list of what is shown, and the token stays with us."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api import dashboard
from api.app import create_app
from service.control_plane import ControlPlane
from service.roles import Role
from tests.api.conftest import make_control_plane

TOKEN = "canary-token-of-the-cluster"
PAGE = b"<html>Ray Dashboard</html>"


class Upstream(ThreadingHTTPServer):
    """Stands for Ray's dashboard: remembers what it was asked, and answers anything."""

    daemon_threads = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, str, dict[str, str]]] = []


class _Answer(BaseHTTPRequestHandler):
    server: Upstream

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.send_response(self.server.status)
        for name, value in {
            "Content-Type": "text/html",
            "Content-Length": str(len(PAGE)),
            "ETag": '"1"',
            "Set-Cookie": f"ray-authentication-token={TOKEN}",
            "X-Echo": TOKEN,
            "Location": "http://elsewhere/",
            "Access-Control-Allow-Origin": "*",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(PAGE)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def control_plane(tmp_path: Path, upstream: Upstream) -> ControlPlane:
    address = f"http://127.0.0.1:{upstream.server_port}"
    return make_control_plane(tmp_path, ray_address=address, ray_token=TOKEN)


def client_of(control_plane: ControlPlane, role: Role) -> TestClient:
    key = control_plane.store.create_key("x", role=role, tenant="house")
    return TestClient(create_app(control_plane), headers={"Authorization": f"Bearer {key}", "Cookie": "session=mine"})


@pytest.fixture
def operator(control_plane: ControlPlane) -> TestClient:
    return client_of(control_plane, Role.OPERATOR)


def test_the_token_is_added_here_and_never_told(operator: TestClient, upstream: Upstream) -> None:
    answer = operator.get("/dashboard/", headers={"Ray-Authorization": "mine", "X-Forwarded-For": "1.2.3.4"})
    assert (answer.status_code, answer.content) == (200, PAGE)
    [(method, path, sent)] = upstream.asked
    assert (method, path, sent["authorization"]) == ("GET", "/", f"Bearer {TOKEN}")
    assert not {"cookie", "ray-authorization", "x-forwarded-for"} & set(sent)
    assert TOKEN not in str(answer.headers)
    assert not {"set-cookie", "location", "access-control-allow-origin"} & set(answer.headers)
    assert answer.headers["ETag"] == '"1"'


def test_the_page_may_talk_to_the_dashboard_alone(operator: TestClient) -> None:
    answer = operator.get("/dashboard/")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    here = "http://testserver/dashboard/"
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", here, here)
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SUBMITTER])
def test_tenants_do_not_see_it(control_plane: ControlPlane, upstream: Upstream, role: Role) -> None:
    answer = client_of(control_plane, role).get("/dashboard/")
    assert (answer.status_code, "takes at least operator" in answer.text) == (403, True)
    assert TestClient(create_app(control_plane)).get("/dashboard/").status_code == 401
    assert upstream.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "favicon.ico",
        "static/js/main.84605326.js",
        "static/css/main.ec1426f1.css",
        "api/jobs/",
        "api/jobs/job-1-a1",
        "api/jobs/job-1-a1/logs",
        "logical/actors",
        "nodes?view=summary",
        "api/v0/logs?node_id=abc&glob=*worker*",
        "api/v0/logs/file?node_id=abc&filename=worker-1.out&lines=10",
        "api/v0/tasks?detail=1&limit=100&filter_keys=job_id&filter_predicates=%3D&filter_values=01000000",
    ],
)
def test_what_the_pages_show_is_passed_on_as_it_was_asked(operator: TestClient, upstream: Upstream, path: str) -> None:
    assert operator.get(f"/dashboard/{path}").status_code == 200
    asked, _, query = path.partition("?")
    sent, _, sent_query = upstream.asked[0][1].partition("?")
    assert (sent, sorted(sent_query.split("&"))) == (f"/{asked}", sorted(query.replace("*", "%2A").split("&")))


@pytest.mark.parametrize(
    "path",
    [
        "api/actors/kill?actor_id=1",
        "worker/traceback?pid=1",
        "worker/cpu_profile?pid=1",
        "memory_profile?pid=1",
        "task/cpu_profile",
        "api/packages/gcs/x.zip",
        "api/v0/delay/600",
        "api/v0/logs/stream?filename=x",
        "api/v0/objects",
        "api/v0/runtime_envs",
        "api/component_activities",
        "api/authenticate",
        "log_proxy?url=http://169.254.169.254/",
        "static/js/../../api/actors/kill",
        "static/js/..%2f..%2fapi/actors/kill",
        "static/js/%2e%2e/%2e%2e/api/actors/kill",
        "static/js/%252e%252e/x.js",
        "static/js/..",
        "static/js/x..js",
        "api/jobs//",
        "api//jobs/",
        "/api/jobs/",
        "api/jobs/a%2Fb",
        "api/jobs/%0d%0aX: y",
        "api/jobs/a%00",
        "api/jobs/a%3Fb",
        "api/version%23",
        "api/version;x",
        "api\\version",
        "http://elsewhere/",
        "@elsewhere/",
        ":80/",
    ],
)
def test_nothing_else_is_passed_on(operator: TestClient, upstream: Upstream, path: str) -> None:
    answer = operator.get(f"/dashboard/{path}", follow_redirects=False)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert upstream.asked == []


@pytest.mark.parametrize(
    "value", ["../../etc/passwd", "/etc/passwd", "~/.ssh/id_rsa", "a/../b", "\\\\host\\x", "a\r\nb"]
)
@pytest.mark.parametrize("name", ["filename", "glob"])
def test_logs_are_not_read_from_elsewhere(operator: TestClient, upstream: Upstream, name: str, value: str) -> None:
    answer = operator.get("/dashboard/api/v0/logs/file", params={name: value})
    assert answer.status_code == 422
    assert upstream.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_but_looking_is_passed_on(operator: TestClient, upstream: Upstream, method: str) -> None:
    assert operator.request(method, "/dashboard/api/jobs/").status_code == 405
    assert upstream.asked == []


@pytest.mark.parametrize(("status", "told"), [(404, 404), (302, 503), (401, 503), (500, 503)])
def test_what_goes_wrong_there_is_told_in_our_words(
    operator: TestClient, upstream: Upstream, status: int, told: int
) -> None:
    upstream.status = status
    answer = operator.get("/dashboard/api/jobs/x")
    assert (answer.status_code, answer.headers["content-type"]) == (told, "application/problem+json")
    assert TOKEN not in answer.text


def test_a_cluster_that_does_not_answer_is_told(control_plane: ControlPlane) -> None:
    control_plane.settings = control_plane.settings.model_copy(update={"ray_address": "http://127.0.0.1:9"})
    answer = client_of(control_plane, Role.OPERATOR).get("/dashboard/")
    assert (answer.status_code, "does not answer" in answer.text) == (503, True)


def test_without_ray_there_is_no_dashboard(tmp_path_factory: pytest.TempPathFactory) -> None:
    bare = make_control_plane(tmp_path_factory.mktemp("bare"))
    assert client_of(bare, Role.OPERATOR).get("/dashboard/").status_code == 404


def test_an_answer_outlives_its_key_by_less_than_a_minute() -> None:
    assert dashboard.MOST_SECONDS < 60
