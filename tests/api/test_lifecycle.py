"""Laws of the verbs over HTTP: every verb in every state does what the table says, and can be sent again."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service import lifecycle
from service.control_plane import ControlPlane
from service.errors import Conflict
from service.lifecycle import ANSWERS, Answer
from service.roles import Role
from service.spec import parse_spec
from service.states import TERMINAL, Desired, JobState, Verb
from tests.api.conftest import SPEC

S = JobState
PATH = {
    S.QUEUED: [],
    S.STARTING: [S.STARTING],
    S.VALIDATING: [S.STARTING, S.VALIDATING],
    S.PROFILING: [S.STARTING, S.VALIDATING, S.PROFILING],
    S.GROUPING: [S.STARTING, S.VALIDATING, S.GROUPING],
    S.AWAITING_APPROVAL: [S.STARTING, S.VALIDATING, S.GROUPING, S.AWAITING_APPROVAL],
    S.SEARCHING: [S.STARTING, S.VALIDATING, S.GROUPING, S.SEARCHING],
    S.TRAINING: [S.STARTING, S.VALIDATING, S.GROUPING, S.TRAINING],
    S.PUBLISHING: [S.STARTING, S.VALIDATING, S.GROUPING, S.TRAINING, S.PUBLISHING],
    S.PAUSED: [S.STARTING, S.VALIDATING, S.PAUSED],
    S.SUCCEEDED: [S.STARTING, S.VALIDATING, S.GROUPING, S.TRAINING, S.PUBLISHING, S.SUCCEEDED],
    S.PARTIALLY_SUCCEEDED: [S.STARTING, S.VALIDATING, S.GROUPING, S.TRAINING, S.PUBLISHING, S.PARTIALLY_SUCCEEDED],
    S.FAILED: [S.STARTING, S.VALIDATING, S.FAILED],
    S.CANCELLED: [S.STARTING, S.VALIDATING, S.CANCELLED],
}
WISH = {S.PAUSED: Desired.PAUSE, S.CANCELLED: Desired.CANCEL}
"""What was asked of a job that stands there."""
ACCEPTED = {Verb.CANCEL: 202, Verb.PAUSE: 202, Verb.RESUME: 202, Verb.RETRY: 202, Verb.CLONE: 202}


def led_to(control_plane: ControlPlane, state: JobState) -> str:
    """A job in this state."""
    store = control_plane.store
    job = store.create_job(parse_spec(SPEC))[0].id
    if PATH[state]:
        attempt = store.start_attempt(job)
        if state in WISH:
            store.set_desired(job, WISH[state])
        for step in PATH[state][1:]:
            assert store.move(job, step, attempt=attempt)
    assert store.get_job(job).state == state
    return job


def send(api: TestClient, verb: Verb, job: str, **more: Any) -> Any:
    if verb == Verb.DELETE:
        return api.delete(f"/v1/jobs/{job}", **more)
    if verb == Verb.CLONE:
        return api.post(f"/v1/jobs/{job}/clone", json={}, **more)
    return api.post(f"/v1/jobs/{job}/{verb}", **more)


def known_of(control_plane: ControlPlane, job: str) -> tuple:
    return control_plane.store.get_job(job), control_plane.store.events(job)


@pytest.fixture
def no_key(control_plane: ControlPlane) -> Iterator[TestClient]:
    """Asks without a key, so that a thousand requests are looked up less."""
    control_plane.settings = control_plane.settings.model_copy(update={"no_auth": True, "requests_per_minute": 0})
    with TestClient(create_app(control_plane), base_url="http://localhost") as client:
        yield client


def test_the_table_has_every_verb_in_every_state() -> None:
    assert set(ANSWERS) == set(JobState)
    assert all(list(answers) == list(Verb) for answers in ANSWERS.values())
    assert PATH.keys() == ANSWERS.keys()


@pytest.mark.parametrize("state", list(JobState))
def test_every_verb_does_what_the_table_says_and_can_be_sent_again(
    no_key: TestClient, control_plane: ControlPlane, state: JobState
) -> None:
    for verb in Verb:
        job = led_to(control_plane, state)
        before = known_of(control_plane, job)
        offered = no_key.get(f"/v1/jobs/{job}").json()["verbs"]
        answer = send(no_key, verb, job)
        found = ANSWERS[state][verb]
        assert (verb in offered) == (found is Answer.DONE), verb
        if found is Answer.REFUSED:
            assert answer.status_code == 409, (verb, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert f"Job {job} is {state} and cannot be" in answer.json()["detail"]
        else:
            assert answer.status_code == ACCEPTED.get(verb, 200), (verb, answer.text)
        if found is not Answer.DONE or verb in (Verb.RETRY, Verb.CLONE):
            assert known_of(control_plane, job) == before, verb
            continue
        after = known_of(control_plane, job)
        assert after[0].state == state
        assert len(after[1]) == len(before[1]) + 1
        again = send(no_key, verb, job)
        assert again.status_code == answer.status_code
        assert known_of(control_plane, job) == after, verb


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL))
def test_a_cancel_is_final_and_can_be_hurried(no_key: TestClient, control_plane: ControlPlane, state: JobState) -> None:
    job = led_to(control_plane, state)
    send(no_key, Verb.CANCEL, job)
    for verb in (Verb.PAUSE, Verb.RESUME):
        answer = send(no_key, verb, job)
        assert answer.status_code == 409
        assert "is being cancelled; that is final" in answer.json()["detail"]
    assert send(no_key, Verb.CLONE, job).status_code == 202
    assert not control_plane.store.get_job(job).at_once
    asked = control_plane.store.get_job(job).desired_since
    for _ in range(2):
        assert no_key.post(f"/v1/jobs/{job}/cancel?mode=now").status_code == 202
        assert send(no_key, Verb.CANCEL, job).status_code == 202
        seen = control_plane.store.get_job(job)
        assert (seen.at_once, seen.desired, seen.desired_since) == (True, Desired.CANCEL, asked)
    events = [event.message for event in control_plane.store.events(job) if event.kind == "wish"]
    assert events[-2:] == ["Asked to cancel.", "Asked to cancel at once."]
    assert no_key.post(f"/v1/jobs/{job}/cancel?mode=soon").status_code == 422


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_deleted_job_is_only_looked_at_and_restored(
    no_key: TestClient, control_plane: ControlPlane, state: JobState
) -> None:
    job = led_to(control_plane, state)
    deleted = send(no_key, Verb.DELETE, job).json()
    assert deleted["verbs"] == ["restore"]
    assert deleted["purge_at"] > deleted["deleted_at"]
    before = known_of(control_plane, job)
    for verb in set(Verb) - {Verb.DELETE, Verb.RESTORE}:
        answer = send(no_key, verb, job)
        assert answer.status_code == 409, verb
        assert f"Job {job} is deleted and cannot be" in answer.json()["detail"]
    assert known_of(control_plane, job) == before
    assert [job["id"] for job in no_key.get("/v1/jobs?deleted=true").json()["jobs"]] == [job]
    assert no_key.get("/v1/jobs").json()["jobs"] == []
    assert no_key.get(f"/v1/jobs/{job}").status_code == 200
    for _ in range(2):
        restored = send(no_key, Verb.RESTORE, job).json()
        assert (restored["deleted_at"], restored["purge_at"], restored["state"]) == (None, None, state)
    assert [job["id"] for job in no_key.get("/v1/jobs").json()["jobs"]] == [job]


def test_an_archived_job_is_out_of_the_listing_and_otherwise_as_before(
    no_key: TestClient, control_plane: ControlPlane
) -> None:
    job = led_to(control_plane, S.FAILED)
    assert Verb.ARCHIVE in send(no_key, Verb.UNARCHIVE, job).json()["verbs"]
    found = send(no_key, Verb.ARCHIVE, job).json()
    assert found["archived_at"] and Verb.UNARCHIVE in found["verbs"] and Verb.ARCHIVE not in found["verbs"]
    assert no_key.get("/v1/jobs").json()["jobs"] == []
    assert [each["id"] for each in no_key.get("/v1/jobs?archived=true").json()["jobs"]] == [job]
    assert send(no_key, Verb.RETRY, job).status_code == 202
    send(no_key, Verb.DELETE, job)
    assert no_key.get("/v1/jobs?archived=true").json()["jobs"] == []
    send(no_key, Verb.RESTORE, job)
    assert [each["id"] for each in no_key.get("/v1/jobs?archived=true").json()["jobs"]] == [job]
    send(no_key, Verb.UNARCHIVE, job)
    assert job in [each["id"] for each in no_key.get("/v1/jobs").json()["jobs"]]


def test_a_retry_is_the_same_job_and_there_is_one_at_a_time(no_key: TestClient, control_plane: ControlPlane) -> None:
    store, job = control_plane.store, led_to(control_plane, S.FAILED)
    first = send(no_key, Verb.RETRY, job, headers={"Idempotency-Key": "one"})
    child = first.json()
    assert first.headers["location"] == f"/v1/jobs/{child['id']}"
    assert (child["retry_of"], child["state"], child["parent"]) == (job, "QUEUED", None)
    assert child["spec"] == no_key.get(f"/v1/jobs/{job}").json()["spec"]
    for headers in ({}, {"Idempotency-Key": "one"}, {"Idempotency-Key": "two"}):
        again = send(no_key, Verb.RETRY, job, headers=headers)
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (child["id"], "true")
    store.set_desired(child["id"], Desired.CANCEL)
    store.move(child["id"], S.CANCELLED, attempt=None)
    for key in ("one", "two"):  # both stand for the retry that they began, or found under way
        assert send(no_key, Verb.RETRY, job, headers={"Idempotency-Key": key}).json()["id"] == child["id"]
    assert send(no_key, Verb.RETRY, job).json()["id"] != child["id"]
    assert send(no_key, Verb.CLONE, job, headers={"Idempotency-Key": "one"}).status_code == 422


def test_a_clone_begins_anew_with_what_is_overridden(no_key: TestClient, control_plane: ControlPlane) -> None:
    job = led_to(control_plane, S.TRAINING)
    base = no_key.get(f"/v1/jobs/{job}").json()["spec"]

    def clone(**body: Any) -> Any:
        return no_key.post(f"/v1/jobs/{job}/clone", json=body)

    plain = clone().json()
    assert (plain["spec"], plain["parent"], plain["retry_of"], plain["state"]) == (base, None, None, "QUEUED")
    told = control_plane.store.events(plain["id"])[0].message
    assert told == f"Accepted with 2 task(s); it is a clone of {job}."
    other = clone(name="again", overrides={"training": {"epochs": 9}, "grouping": {"num_groups": 2}}).json()["spec"]
    assert other["name"] == "again" and other["training"] == base["training"] | {"epochs": 9}
    assert other["grouping"] == base["grouping"] | {"num_groups": 2}
    assert clone(overrides={"training": {"epochs": None}}).json()["spec"] == base
    method = clone(overrides={"method": {"kind": "coop"}, "baselines": None}).json()["spec"]["method"]
    assert method["kind"] == "coop" and "source_shape" not in method
    found = clone(overrides={"method": {"kind": "zero_shot"}}).json()[
        "spec"
    ]  # baselines that nobody asked for go along
    assert found["baselines"] == ["zero_shot"]
    for overrides, problem in (
        ({"trainin": {}}, "Did you mean 'training'?"),
        ({"tasks": None}, "missing"),
        ({"tasks": [{"name": "a", "source": {"kind": "folder", "uri": "/etc"}}]}, "/etc"),
        ({"method": {"kind": "coop", "source_shape": [1, 1]}}, "source_shape"),
    ):
        answer = clone(overrides=overrides)
        assert answer.status_code == 422 and problem in answer.json()["detail"], answer.text
    assert no_key.post(f"/v1/jobs/{job}/clone", json={"override": {}}).status_code == 422
    assert no_key.post(f"/v1/jobs/{job}/clone").status_code == 415


def test_retries_and_clones_stay_with_the_tenant(control_plane: ControlPlane) -> None:
    client = TestClient(create_app(control_plane), base_url="http://localhost")
    job = led_to(control_plane, S.FAILED)
    operator = control_plane.store.create_key("boss", tenant="house", role=Role.OPERATOR)
    for verb in (Verb.RETRY, Verb.CLONE):
        made = send(client, verb, job, headers={"Authorization": f"Bearer {operator}"}).json()
        assert made["tenant"] == "default"


def test_a_retry_of_a_retry_that_never_began_retries_the_job_before_both(
    no_key: TestClient, control_plane: ControlPlane
) -> None:
    job = led_to(control_plane, S.FAILED)
    child = send(no_key, Verb.RETRY, job).json()["id"]
    assert send(no_key, Verb.RETRY, child).status_code == 409
    control_plane.store.set_desired(child, Desired.CANCEL)
    control_plane.store.move(child, S.CANCELLED, attempt=None)
    again = send(no_key, Verb.RETRY, child).json()
    assert again["retry_of"] == job
    assert send(no_key, Verb.RETRY, job).json()["id"] == again["id"]


def test_verbs_and_states_of_the_api_are_those_of_the_service(no_key: TestClient) -> None:
    schema = no_key.get("/openapi.json").json()
    parts, paths = schema["components"]["schemas"], schema["paths"]
    assert parts["JobState"]["enum"] == list(JobState)
    assert parts["Verb"]["enum"] == list(Verb)
    assert "delete" in paths["/v1/jobs/{job_id}"]
    for verb in set(Verb) - {Verb.DELETE}:
        assert "409" in paths[f"/v1/jobs/{{job_id}}/{verb}"]["post"]["responses"], verb


def test_no_job_goes_on_from_a_deleted_one(control_plane: ControlPlane) -> None:
    job = led_to(control_plane, S.SUCCEEDED)
    control_plane.store.delete(job)
    with pytest.raises(Conflict, match="is deleted; no job can go on from it"):
        control_plane.store.create_job(parse_spec(SPEC), parent=job, parent_plan=0)


def test_what_the_table_says_is_what_the_function_says(control_plane: ControlPlane) -> None:
    for state, verb in product(JobState, Verb):
        job = control_plane.store.get_job(led_to(control_plane, state))
        assert lifecycle.answer(verb, job) is ANSWERS[state][verb], (state, verb)
