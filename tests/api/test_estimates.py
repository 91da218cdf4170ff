"""Laws of estimates over HTTP: asked for like a job, waited for, cancelled like one, and hidden among jobs."""

import threading

import pytest
from fastapi.testclient import TestClient

from service.control_plane import ControlPlane
from service.states import JobState
from service.wire_estimate import Forecast, Interval, Memory
from tests.api.conftest import SPEC, YAML

MEMORY = Memory(of="process", peak_bytes=1, available_bytes=2, fits=True, sentence="It fits.")
FORECAST = Forecast(
    tasks=[], problems=[], memory=MEMORY, workers=1, seconds=Interval(low=1, high=2), assumptions=["None."]
)
WALK = (JobState.VALIDATING, JobState.PROFILING, JobState.GROUPING, JobState.TRAINING, JobState.PUBLISHING)


def asked(api: TestClient, **params: float) -> dict:
    answer = api.post("/v1/jobs/estimate", content=SPEC, headers=YAML, params=params)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}/estimate"
    return answer.json()


@pytest.fixture
def end(api: TestClient, control_plane: ControlPlane):
    """`end(id)` plays the driver of an estimate."""

    def play(job_id: str) -> None:
        attempt = control_plane.store.start_attempt(job_id)
        api.app.state.views.files(job_id).write_text("estimate.json", FORECAST.model_dump_json())  # type: ignore[attr-defined]
        for state in (*WALK, JobState.SUCCEEDED):
            assert control_plane.store.move(job_id, state, attempt=attempt)

    return play


def test_an_estimate_is_no_job_among_jobs(api: TestClient):
    found = asked(api)
    assert found["state"] == "QUEUED" and found["forecast"] is None
    assert api.get("/v1/jobs").json()["jobs"] == []
    assert [job["id"] for job in api.get("/v1/jobs?purpose=estimate").json()["jobs"]] == [found["id"]]
    assert api.get(f"/v1/jobs/{found['id']}").json()["spec"]["name"] == "two-digits"


def test_an_estimate_tells_its_forecast_once_it_has_ended(api: TestClient, end):
    job = asked(api)["id"]
    end(job)
    found = api.get(f"/v1/jobs/{job}/estimate").json()
    assert found["state"] == "SUCCEEDED" and found["wait_seconds"] == 0
    assert Forecast.model_validate(found["forecast"]) == FORECAST
    assert found["expires_at"] > found["finished_at"]


def test_whoever_waits_hears_the_end(api: TestClient, end):
    job = asked(api, wait=0.05)["id"]
    threading.Timer(0.3, end, [job]).start()
    assert api.get(f"/v1/jobs/{job}/estimate", params={"wait": 60}).json()["state"] == "SUCCEEDED"


def test_the_same_key_makes_one_estimate_and_no_job(api: TestClient, end):
    same = {**YAML, "Idempotency-Key": "again"}
    first, second = (api.post("/v1/jobs/estimate", content=SPEC, headers=same) for _ in range(2))
    assert first.json()["id"] == second.json()["id"] and second.headers["Idempotent-Replayed"] == "true"
    assert api.post("/v1/jobs", content=SPEC, headers=same).status_code == 422
    end(first.json()["id"])
    assert api.post("/v1/jobs/estimate", content=SPEC, headers=same).status_code == 200


def test_what_is_no_job_is_refused_with_every_fault(api: TestClient):
    answer = api.post("/v1/jobs/estimate", content="{name: x}", headers=YAML)
    assert answer.status_code == 422 and {fault["path"] for fault in answer.json()["errors"]} == {"backbone", "tasks"}
    assert api.post("/v1/jobs/estimate", content=SPEC.replace("uri: a", "uri: /etc"), headers=YAML).status_code == 422


def test_a_job_that_trains_is_no_estimate(api: TestClient):
    job = api.post("/v1/jobs", content=SPEC, headers=YAML).json()["id"]
    answer = api.get(f"/v1/jobs/{job}/estimate")
    assert answer.status_code == 404 and "is no estimate" in answer.json()["detail"]


def test_an_estimate_is_cancelled_like_a_job(api: TestClient, control_plane: ControlPlane):
    job = asked(api)["id"]
    assert api.post(f"/v1/jobs/{job}/cancel").json()["desired"] == "cancel"


def test_nothing_goes_on_from_an_estimate(api: TestClient, end):
    job = asked(api)["id"]
    end(job)
    task = "{tasks: [{name: c, source: {kind: folder, uri: a}}]}"
    refused = (
        api.post(f"/v1/jobs/{job}/tasks", content=task, headers=YAML),
        api.post(f"/v1/jobs/{job}/plans", content="{settings: {num_groups: 2}}", headers=YAML),
        api.post(f"/v1/jobs/{job}/plans/0/run"),
        api.get(f"/v1/jobs/{job}/similarity"),
        api.get(f"/v1/jobs/{job}/report"),
    )
    assert {answer.status_code for answer in refused} <= {404, 409}, [answer.text for answer in refused]
