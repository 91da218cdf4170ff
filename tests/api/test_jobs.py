"""Submitting, listing and steering jobs over HTTP."""

import json

import pytest
from fastapi.testclient import TestClient

from grouping.plan import trivial_plan
from service.control_plane import ControlPlane
from service.spec import parse_spec
from service.states import Desired, JobState

SPEC = """
name: two-digits
backbone: {model: demo}
tasks:
  - {name: a, source: {kind: folder, uri: a}}
  - {name: b, source: {kind: folder, uri: b}}
"""
YAML = {"Content-Type": "application/yaml"}


def _submit(api: TestClient, **headers: str) -> dict:
    answer = api.post("/v1/jobs", content=SPEC, headers=YAML | headers)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_an_accepted_job_is_queued_and_has_a_location(api: TestClient) -> None:
    answer = api.post("/v1/jobs", content=SPEC, headers=YAML)
    assert answer.status_code == 202
    job = answer.json()
    assert job["state"] == "QUEUED"
    assert job["num_tasks"] == 2
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert api.get(answer.headers["location"]).json() == job


def test_json_and_yaml_describe_the_same_job(api: TestClient) -> None:
    text = parse_spec(SPEC).model_dump_json()
    answer = api.post("/v1/jobs", content=text, headers={"Content-Type": "application/json; charset=utf-8"})
    assert answer.json()["spec"] == _submit(api)["spec"]


def test_the_same_key_and_body_is_the_same_job(api: TestClient) -> None:
    first = _submit(api, **{"Idempotency-Key": "k"})
    again = api.post("/v1/jobs", content=SPEC, headers=YAML | {"Idempotency-Key": "k"})
    assert again.status_code == 202
    assert again.json()["id"] == first["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(api.get("/v1/jobs").json()["jobs"]) == 1


def test_the_same_key_with_another_body_is_refused(api: TestClient) -> None:
    _submit(api, **{"Idempotency-Key": "k"})
    answer = api.post("/v1/jobs", content=SPEC.replace("two-digits", "else"), headers=YAML | {"Idempotency-Key": "k"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:cohort:problem:idempotency-conflict"


def test_every_fault_of_a_description_is_named(api: TestClient) -> None:
    answer = api.post("/v1/jobs", content=SPEC + "trainin: {}\nmethod: {kind: nope}\n", headers=YAML)
    assert answer.status_code == 422
    paths = {fault["path"] for fault in answer.json()["errors"]}
    assert {"trainin", "method"} <= paths
    assert "Did you mean 'training'?" in answer.json()["detail"]


@pytest.mark.parametrize("uri", ["/etc", "../..", "http://example.org/a", "file:///etc"])
def test_data_outside_the_roots_is_refused_at_once(api: TestClient, uri: str) -> None:
    answer = api.post("/v1/jobs", content=SPEC.replace("uri: a", f"uri: {uri!r}"), headers=YAML)
    assert answer.status_code == 422
    assert uri.removeprefix("file://") in answer.json()["detail"]


def test_validation_lists_classes_and_images_without_making_a_job(api: TestClient) -> None:
    answer = api.post("/v1/jobs/validate", content=SPEC, headers=YAML).json()
    assert answer["valid"] is True
    assert [(task["task"], task["num_classes"], task["num_images"]) for task in answer["tasks"]] == [
        ("a", 2, 2),
        ("b", 2, 2),
    ]
    assert api.get("/v1/jobs").json()["jobs"] == []


def test_validation_counts_the_captions_of_a_retrieval_task(api: TestClient, control_plane: ControlPlane) -> None:
    table = control_plane.settings.home / "data" / "pairs.csv"
    table.write_text("path,caption\na/one/0.png,a card\na/one/0.png,the same card\na/two/0.png,another\n")
    task = "{name: b, source: {kind: folder, uri: b}}"
    assert task in SPEC
    pairs = "{name: b, kind: retrieval, source: {kind: manifest, uri: pairs.csv}}"
    found = api.post("/v1/jobs/validate", content=SPEC.replace(task, pairs), headers=YAML).json()
    assert found["valid"], found
    kinds = [(t["kind"], t["num_classes"], t["num_captions"], t["num_images"]) for t in found["tasks"]]
    assert kinds == [("classification", 2, None, 2), ("retrieval", 0, 3, 2)]


def test_validation_counts_an_image_of_several_classes_for_each(api: TestClient, control_plane: ControlPlane) -> None:
    table = control_plane.settings.home / "data" / "scenes.csv"
    table.write_text("path,label\na/one/0.png,sun|sea\na/two/0.png,sea\n")
    scenes = "{name: b, kind: multi_label, source: {kind: manifest, uri: scenes.csv}}"
    body = SPEC.replace("{name: b, source: {kind: folder, uri: b}}", scenes)
    found = api.post("/v1/jobs/validate", content=body, headers=YAML).json()["tasks"]
    assert found[1]["classes"] == [{"name": "sea", "num_images": 2}, {"name": "sun", "num_images": 1}], found
    assert found[0]["classes"] == [{"name": "one", "num_images": 1}, {"name": "two", "num_images": 1}]


def test_validation_names_the_task_whose_data_is_missing(api: TestClient) -> None:
    answer = api.post("/v1/jobs/validate", content=SPEC.replace("uri: b", "uri: gone"), headers=YAML)
    assert answer.status_code == 200
    assert answer.json()["valid"] is False
    assert [task["problem"] is None for task in answer.json()["tasks"]] == [True, False]


def test_validation_answers_faults_with_200(api: TestClient) -> None:
    answer = api.post("/v1/jobs/validate", content="name: [", headers=YAML)
    assert answer.status_code == 200
    assert answer.json()["valid"] is False
    assert answer.json()["faults"]


def test_pages_hold_every_job_once_newest_first(api: TestClient) -> None:
    made = [_submit(api)["id"] for _ in range(5)]
    seen, after = [], None
    while True:
        page = api.get("/v1/jobs", params={"limit": 2} | ({"after": after} if after else {})).json()
        seen += [job["id"] for job in page["jobs"]]
        after = page["next"]
        if after is None:
            break
    assert seen == made[::-1]


def test_jobs_can_be_filtered_by_state(api: TestClient, control_plane: ControlPlane) -> None:
    waiting, started = _submit(api)["id"], _submit(api)["id"]
    control_plane.store.start_attempt(started)
    assert [job["id"] for job in api.get("/v1/jobs?state=QUEUED").json()["jobs"]] == [waiting]


@pytest.mark.parametrize("query", ["state=DONE", "limit=0", "limit=x", "after=job-1"])
def test_a_bad_listing_is_a_problem(api: TestClient, query: str) -> None:
    answer = api.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("verb", "desired"), [("cancel", "cancel"), ("pause", "pause"), ("resume", "run")])
def test_a_wish_is_written_and_repeatable(api: TestClient, verb: str, desired: str) -> None:
    job = _submit(api)["id"]
    for _ in range(2):
        answer = api.post(f"/v1/jobs/{job}/{verb}")
        assert answer.status_code == 202
        assert answer.json()["desired"] == desired


def test_cancelling_a_cancelled_job_is_no_error_but_a_finished_one_is(
    api: TestClient, control_plane: ControlPlane
) -> None:
    job = _submit(api)["id"]
    control_plane.store.set_desired(job, Desired.CANCEL)
    control_plane.store.move(job, JobState.CANCELLED, attempt=None)
    assert api.post(f"/v1/jobs/{job}/cancel").status_code == 202
    failed = _submit(api)["id"]
    control_plane.store.move(failed, JobState.FAILED, attempt=None)
    answer = api.post(f"/v1/jobs/{failed}/cancel")
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"Job {failed} is FAILED and cannot be cancelled."


def test_a_plan_waits_until_it_is_approved(api: TestClient, control_plane: ControlPlane) -> None:
    store, job = control_plane.store, _submit(api)["id"]
    assert api.post(f"/v1/jobs/{job}/plans/0/approve").status_code == 404
    attempt = store.start_attempt(job)
    store.add_plan(job, trivial_plan(["a", "b"], "all").outline(), lambda number: None, attempt=attempt)
    assert api.get(f"/v1/jobs/{job}").json()["plan"]["approved"] is False
    assert api.post(f"/v1/jobs/{job}/plans/0/approve").json()["plan"]["approved"] is True


def test_the_description_of_the_api_teaches_the_job(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    body = schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/yaml", "application/json"}
    parts = schema["components"]["schemas"]
    assert parts["JobSpec"]["properties"]["tasks"]["description"]
    references = set(json.dumps(schema).split('"#/components/schemas/')[1:])
    assert {text.partition('"')[0] for text in references} <= set(parts)
