"""Every request has an id, is counted, and leaves a line."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from structlog.contextvars import get_contextvars

from api.app import create_app
from service.control_plane import ControlPlane
from service.store import Store

TRACED = """
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from api.app import create_app
from tests.api.conftest import make_control_plane
with TestClient(create_app(make_control_plane(Path(sys.argv[1])))) as client:
    for path in ("/v1/jobs/job-000000000000", "/v1/links/a-secret/file", "/livez"):
        client.get(path)
"""


def test_an_id_that_is_given_comes_back_and_any_other_request_gets_one(api: TestClient) -> None:
    assert api.get("/livez", headers={"X-Request-Id": "from-a.proxy_1"}).headers["X-Request-Id"] == "from-a.proxy_1"
    made = [api.get("/livez").headers["X-Request-Id"] for _ in range(2)]
    assert made[0] != made[1]
    for strange in ("", "a b", "x" * 65, "<script>"):
        assert api.get("/livez", headers={"X-Request-Id": strange}).headers["X-Request-Id"] != strange


def test_what_strangers_make_up_names_no_series(api: TestClient) -> None:
    for number in range(3):
        api.request(f"MADEUP{number}", f"/made/up/{number}")
    text = api.get("/metrics").text
    assert 'cohort_http_requests_total{method="other",route="unknown"' in text
    assert "MADEUP" not in text and "/made/up" not in text


def test_a_request_leaves_one_line_without_its_path(
    api: TestClient, finish: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    job = finish()
    with caplog.at_level(logging.DEBUG, logger="api.watch"):
        api.get(f"/v1/jobs/{job}?secret=1")
        api.post(f"/v1/jobs/{job}/archive")
    looked, archived = (record.__dict__ for record in caplog.records if record.name == "api.watch")
    assert looked["message"] == "GET /v1/jobs/{job_id} 200" and looked["levelname"] == "DEBUG"
    assert archived["message"].startswith("POST /v1/jobs/{job_id}/archive 2") and archived["levelname"] == "INFO"
    assert (archived["job"], archived["tenant"]) == (job, "default")
    assert "secret" not in caplog.text


def test_an_error_of_ours_is_found_in_the_log_by_the_id_that_its_user_is_told(
    control_plane: ControlPlane, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def fail(_self: Store, _job: str) -> str:
        seen.append(get_contextvars()["request_id"])
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Store, "tenant_of", fail)
    client = TestClient(create_app(control_plane), raise_server_exceptions=False)
    answer = client.get("/v1/jobs/job-000000000000", headers={"Authorization": f"Bearer {key}"})
    request_id = answer.headers["X-Request-Id"]
    assert answer.status_code == 500 and request_id in answer.json()["detail"]
    assert seen == [request_id]
    (record,) = (record for record in caplog.records if record.name == "api.problems")
    assert record.__dict__["request_id"] == request_id and "a fault of ours" in caplog.text
    assert 'status="500"' in client.get("/metrics").text


def test_traces_go_where_opentelemetry_is_told_and_hold_no_secret_path(tmp_path: Path) -> None:
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.path.encode() + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "OTEL_METRICS_EXPORTER": "none",
        }
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ".", "OTEL_EXPORTER_OTLP_COMPRESSION": "none"} | told
        command = [sys.executable, "-c", TRACED, str(tmp_path)]
        subprocess.run(command, env=environment, check=True, timeout=120)
        server.shutdown()
    traces = b"".join(body for body in received if body.startswith(b"/v1/traces"))
    assert b"/v1/jobs/{job_id}" in traces
    assert b"a-secret" not in b"".join(received) and b"livez" not in traces
