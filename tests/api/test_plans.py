"""Plans over HTTP: asked for, listed, looked at, compared, approved, run again."""

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from service.control_plane import ControlPlane
from service.states import JobState
from tests.measured import NAMES, PLANTED, measured_job

YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
def job(control_plane: ControlPlane) -> Iterator[str]:
    yield measured_job(control_plane.store, control_plane.settings)
    control_plane.planner.close()


@pytest.fixture
def waiting(control_plane: ControlPlane) -> Iterator[str]:
    """A job that waits for an approval."""
    yield measured_job(control_plane.store, control_plane.settings, JobState.AWAITING_APPROVAL)
    control_plane.planner.close()


def test_a_plan_that_was_asked_for_is_made_and_has_a_location(api: TestClient, job: str) -> None:
    answer = api.post(f"/v1/jobs/{job}/plans", json={"settings": {"num_groups": 2}})
    assert answer.status_code == 201
    plan = answer.json()
    assert (plan["number"], plan["groups"], plan["asked"], plan["approved"]) == (0, PLANTED, True, False)
    assert plan["plan"]["task_names"] == list(NAMES)
    assert (plan["review"], plan["review_state"], plan["review_problem"]) == (None, "pending", None)
    assert answer.headers["location"] == f"/v1/jobs/{job}/plans/0"
    assert api.get(answer.headers["location"]).json() == plan


def test_yaml_asks_as_well_as_json(api: TestClient, job: str) -> None:
    answer = api.post(f"/v1/jobs/{job}/plans", content="groups:\n  g1: [a, b, c]\n  g2: [d, e, f]\n", headers=YAML)
    assert answer.status_code == 201
    assert answer.json()["origin"] == "edited"


def test_plans_are_listed_in_short(api: TestClient, job: str) -> None:
    for count in (1, 2):
        api.post(f"/v1/jobs/{job}/plans", json={"settings": {"num_groups": count}})
    plans = api.get(f"/v1/jobs/{job}/plans").json()["plans"]
    assert [(plan["number"], len(plan["groups"])) for plan in plans] == [(0, 1), (1, 2)]
    assert plans[1]["settings"]["num_groups"] == 2
    assert "plan" not in plans[0]


def test_the_approved_plan_is_the_jobs_plan_and_else_the_newest(api: TestClient, waiting: str) -> None:
    for count in (1, 2, 3):
        api.post(f"/v1/jobs/{waiting}/plans", json={"settings": {"num_groups": count}})
    assert api.get(f"/v1/jobs/{waiting}/plan").json()["num_groups"] == 3
    approved = api.post(f"/v1/jobs/{waiting}/plans/1/approve")
    assert (approved.status_code, approved.json()["plan"]["number"]) == (202, 1)
    assert api.get(f"/v1/jobs/{waiting}/plan").json()["num_groups"] == 2
    assert len(api.get(f"/v1/jobs/{waiting}/groups").json()["groups"]) == 2
    assert [plan["approved"] for plan in api.get(f"/v1/jobs/{waiting}/plans").json()["plans"]] == [False, True, False]


def test_a_comparison_names_who_moves(api: TestClient, job: str) -> None:
    api.post(f"/v1/jobs/{job}/plans", json={"settings": {}})
    api.post(f"/v1/jobs/{job}/plans", json={"groups": {"g1": ["a", "c"], "g2": ["b", "d", "f"], "g3": ["e"]}})
    found = api.get(f"/v1/jobs/{job}/plans/compare?first=0&second=1").json()
    move = {"task": "e", "first_group": "g1", "second_group": "g3", "gained": [], "lost": ["a", "c"]}
    assert found["moved"] == [move]
    assert (found["first"], found["second"]) == (0, 1)
    assert found["sentence"].startswith("1 of 6 tasks moves: e (from g1 to g3)")


def test_a_plan_of_a_finished_job_is_run_as_a_job_with_it_as_parent(api: TestClient, job: str) -> None:
    api.post(f"/v1/jobs/{job}/plans", json={"settings": {"num_groups": 3}})
    answer = api.post(f"/v1/jobs/{job}/plans/0/run", headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202
    child = answer.json()
    assert (child["parent"], child["parent_plan"], child["state"]) == (job, 0, "QUEUED")
    assert child["spec"]["grouping"]["num_groups"] == 3
    assert answer.headers["location"] == f"/v1/jobs/{child['id']}"
    again = api.post(f"/v1/jobs/{job}/plans/0/run", headers={"Idempotency-Key": "k"})
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (child["id"], "true")
    assert api.post(f"/v1/jobs/{job}/plans/0/run").json()["id"] != child["id"]
    refused = api.post(f"/v1/jobs/{job}/plans/0/approve")
    assert refused.status_code == 409
    assert "Run the plan as a job of its own" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs/job-000000000000/plans", 404),
        ("GET", "/v1/jobs/job-000000000000/plans/0", 404),
        ("POST", "/v1/jobs/job-000000000000/plans", 404),
        ("POST", "/v1/jobs/..%2f..%2fetc/plans", 404),
        ("POST", "/v1/jobs/job-000000000000/plans/0/run", 404),
        ("GET", "/v1/jobs/{job}/plans/7", 404),
        ("POST", "/v1/jobs/{job}/plans/7/run", 404),
        ("POST", "/v1/jobs/{job}/plans/7/approve", 404),
        ("GET", "/v1/jobs/{job}/plans/compare?first=0&second=7", 404),
        ("GET", "/v1/jobs/{job}/plans/compare?first=0", 422),
        ("GET", "/v1/jobs/{job}/plans/-1", 422),
        ("GET", "/v1/jobs/{job}/plans/99999999999999999999", 422),
        ("GET", "/v1/jobs/{job}/plans/first", 422),
        ("PUT", "/v1/jobs/{job}/plans/0", 405),
    ],
)
def test_what_does_not_exist_is_a_problem(api: TestClient, job: str, method: str, path: str, status: int) -> None:
    api.post(f"/v1/jobs/{job}/plans", json={"settings": {}})
    answer = api.request(method, path.format(job=job), json={"settings": {}} if method == "POST" else None)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_a_fault_of_the_request_is_named_with_its_place(api: TestClient, job: str) -> None:
    answer = api.post(f"/v1/jobs/{job}/plans", json={"settings": {"num_grops": 2, "max_group_size": 0}})
    assert answer.status_code == 422
    assert {fault["path"] for fault in answer.json()["errors"]} == {"settings.num_grops", "settings.max_group_size"}
    assert "Did you mean 'num_groups'?" in answer.json()["detail"]
    assert api.get(f"/v1/jobs/{job}/plans").json() == {"plans": []}


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"{", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b"settings: &a {}\ngroups: *a\n", "application/yaml", 422),
        (b"#" * (2**20 + 1), "application/yaml", 413),
    ],
)
def test_a_body_that_asks_for_nothing_is_a_problem(
    api: TestClient, job: str, content: bytes, kind: str, status: int
) -> None:
    answer = api.post(f"/v1/jobs/{job}/plans", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_job_that_is_not_measured_is_a_conflict(api: TestClient, control_plane: ControlPlane) -> None:
    job = measured_job(control_plane.store, control_plane.settings, method={"kind": "mmap", "sharing": "alone"})
    answer = api.post(f"/v1/jobs/{job}/plans", json={"settings": {}})
    assert answer.status_code == 409
    assert "every task trains alone, so nothing was measured" in answer.json()["detail"]


def test_plans_need_a_key(api: TestClient, job: str) -> None:
    headers = {"Authorization": "Bearer cohort_wrong"}
    assert api.post(f"/v1/jobs/{job}/plans", json={"settings": {}}, headers=headers).status_code == 401
    assert api.get(f"/v1/jobs/{job}/plans", headers=headers).status_code == 401


def test_the_description_of_the_api_teaches_plans(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    parts = schema["components"]["schemas"]
    routes = {path: verbs for path, verbs in schema["paths"].items() if "/plans" in path}
    assert len(routes) == 5
    for verbs in routes.values():
        for said in verbs.values():
            assert said["summary"] and said["description"]
            (good,) = (answer for status, answer in said["responses"].items() if status.startswith("2"))
            assert good["content"]["application/json"]["schema"]["$ref"]
            assert {"404", "409", "422"} <= set(said["responses"])
    for name in ("PlanSummary", "PlanDetail", "PlanComparison", "NewPlan"):
        assert all(part.get("description") for part in parts[name]["properties"].values()), name
    assert parts["PlanDetail"]["properties"]["plan"]["$ref"] == "#/components/schemas/WholePlan"
    assert parts["WholeReview"]["properties"]["confidence"]
    references = set(json.dumps(schema).split('"#/components/schemas/')[1:])
    assert {text.partition('"')[0] for text in references} <= set(parts)
