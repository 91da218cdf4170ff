"""New tasks over HTTP."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from service.control_plane import ControlPlane
from service.states import JobState
from tests.measured import NAMES, measured_job, train_a_plan

YAML = {"Content-Type": "application/yaml"}
NEW = """
name: seven
tasks:
  - {name: new, source: {kind: folder, uri: a}}
"""


@pytest.fixture
def job(control_plane: ControlPlane) -> str:
    """A finished job of six tasks in two groups."""
    job = measured_job(control_plane.store, control_plane.settings)
    train_a_plan(control_plane.store, control_plane.settings, job)
    return job


def test_new_tasks_are_accepted_as_a_job_that_goes_on_from_the_finished_one(api: TestClient, job: str) -> None:
    answer = api.post(f"/v1/jobs/{job}/tasks", content=NEW, headers=YAML)
    assert answer.status_code == 202
    child = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{child['id']}"
    assert (child["name"], child["parent"], child["parent_plan"]) == ("seven", job, 0)
    assert [task["name"] for task in child["spec"]["tasks"]] == [*NAMES, "new"]
    assert api.get(answer.headers["location"]).json()["state"] == "QUEUED"
    assert api.get(f"/v1/jobs/{job}").json()["state"] == JobState.SUCCEEDED


def test_the_same_request_again_makes_no_second_job(api: TestClient, job: str) -> None:
    key = {"Idempotency-Key": "k"}
    first = api.post(f"/v1/jobs/{job}/tasks", content=NEW, headers=YAML | key)
    again = api.post(f"/v1/jobs/{job}/tasks", content=NEW, headers=YAML | key)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = api.post(f"/v1/jobs/{job}/tasks", content=NEW.replace("seven", "else"), headers=YAML | key)
    assert other.status_code == 422


def test_requests_that_do_not_fit_are_problems(api: TestClient, job: str, finish: Callable[[], str]) -> None:
    clash = api.post(f"/v1/jobs/{job}/tasks", content=NEW.replace("name: new", "name: a"), headers=YAML)
    assert clash.status_code == 422
    assert clash.json()["errors"][0]["path"] == "tasks"
    assert "'a' given, but job" in clash.json()["detail"]
    announced = api.post(f"/v1/jobs/{job}/tasks", content=NEW, headers={"Content-Type": "application/json"})
    assert (announced.status_code, "announced as JSON" in announced.json()["detail"]) == (422, True)
    without_groups = api.post(f"/v1/jobs/{finish()}/tasks", content=NEW, headers=YAML)
    assert without_groups.status_code == 409
    assert "has lost 'datasets.json'" in without_groups.json()["detail"]
    unknown = api.post("/v1/jobs/job-000000000000/tasks", content=NEW, headers=YAML)
    assert unknown.status_code == 404


def test_the_body_is_described(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    body = schema["paths"]["/v1/jobs/{job_id}/tasks"]["post"]["requestBody"]["content"]
    assert body["application/yaml"]["schema"]["$ref"] == "#/components/schemas/NewTasks"
    assert set(schema["components"]["schemas"]["NewTasks"]["properties"]) == {"tasks", "name"}
