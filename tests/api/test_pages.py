"""Laws of the pages, without a browser: who gets in, what a form must bring, what every page may show and do."""

import re
from collections.abc import Iterator
from html import unescape

import pytest
import yaml
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from api.app import create_app
from api.pages.router import ROOMS
from api.sessions import COOKIE
from service.control_plane import ControlPlane
from service.roles import Role
from service.states import Desired, JobState
from tests.api.conftest import SPEC, make_control_plane, run_to_the_end
from tests.measured import measured_job

HERE = "http://localhost"
OPEN = {"/sign-in", "/static/{name}", "/favicon.ico"}


def sign_in(control_plane: ControlPlane, role: Role = Role.SUBMITTER, tenant: str = "default") -> TestClient:
    client = TestClient(create_app(control_plane), base_url=HERE, follow_redirects=False)
    key = control_plane.store.create_key(f"{role} of {tenant}", tenant=tenant, role=role)
    answer = client.post("/sign-in", data={"key": key}, headers={"Origin": HERE})
    assert answer.status_code == 303, answer.text
    return client


def token_on(client: TestClient, page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(page).text)
    assert found is not None
    return unescape(found.group(1))


def send(client: TestClient, place: str, *, on: str = "/", **fields: str):
    return client.post(place, data={"csrf": token_on(client, on), **fields}, headers={"Origin": HERE})


def pages() -> list[tuple[str, str]]:
    """(method, path) of every page and form."""
    routes = [route for room in ROOMS for route in room.routes if isinstance(route, APIRoute)]
    found = [(method, route.path) for route in routes for method in route.methods or ()]
    assert len(found) > 25
    return found


def filled(path: str, job_id: str) -> str:
    values = {"job_id": job_id, "number": "0", "task": "a", "verb": "pause", "name": "pages.css"}
    return re.sub(r"\{(\w+)\}", lambda found: values[found.group(1)], path)


@pytest.fixture
def visitor(control_plane: ControlPlane) -> TestClient:
    """A browser in which a submitter has signed in."""
    return sign_in(control_plane)


@pytest.fixture
def stranger(control_plane: ControlPlane) -> TestClient:
    return TestClient(create_app(control_plane), base_url=HERE, follow_redirects=False)


# who gets in


def test_every_page_but_the_sign_in_asks_for_one(stranger: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    for method, path in pages():
        answer = stranger.request(method, filled(path, job), headers={"Origin": HERE})
        if path in OPEN:
            assert answer.status_code in (200, 204, 401), path
        else:
            assert (answer.status_code, answer.headers["location"][:8]) == (303, "/sign-in"), (method, path)


def test_signing_in_leads_to_where_one_wanted_to_go_and_never_out(stranger: TestClient, key: str) -> None:
    asked = stranger.get("/?state=FAILED")
    assert asked.headers["location"] == "/sign-in?to=/%3Fstate%3DFAILED"
    assert 'value="/?state=FAILED"' in stranger.get(asked.headers["location"]).text
    for to, place in (("/submit", "/submit"), ("https://evil", "/"), ("//evil", "/"), ("/\\evil", "/"), ("", "/")):
        answer = stranger.post("/sign-in", data={"key": key, "to": to}, headers={"Origin": HERE})
        assert (answer.status_code, answer.headers["location"]) == (303, place)


def test_the_cookie_holds_no_key_and_cannot_be_read_or_sent_by_others(stranger: TestClient, key: str) -> None:
    answer = stranger.post("/sign-in", data={"key": f" {key}\n"}, headers={"Origin": HERE})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert key.split("_")[2] not in cookie
    secure = TestClient(stranger.app, base_url="https://localhost")
    assert "Secure" in secure.post("/sign-in", data={"key": key}, follow_redirects=False).headers["set-cookie"]


@pytest.mark.parametrize("value", ["", "cohort_0_0", "ü" * 300])
def test_a_bad_key_signs_nobody_in_and_says_so(stranger: TestClient, value: str) -> None:
    answer = stranger.post("/sign-in", data={"key": value}, headers={"Origin": HERE})
    assert answer.status_code == 401
    assert "unknown, expired or revoked" in answer.text and 'aria-invalid="true"' in answer.text
    assert "set-cookie" not in answer.headers


def test_a_bent_cookie_signs_nobody_in(visitor: TestClient) -> None:
    value = visitor.cookies[COOKIE]
    for bent in (value[:-2], value.replace(value[5], "A" if value[5] != "A" else "B", 1), "x", ""):
        visitor.cookies.clear()
        visitor.cookies.set(COOKIE, bent)
        assert visitor.get("/").status_code == 303


def test_a_sign_in_ends_with_its_key(visitor: TestClient, control_plane: ControlPlane) -> None:
    assert visitor.get("/").status_code == 200
    control_plane.store.revoke_key(control_plane.store.list_keys()[-1].prefix)
    assert visitor.get("/").status_code == 303


def test_a_sign_in_ends_after_its_hours(visitor: TestClient, control_plane: ControlPlane, monkeypatch) -> None:
    now = control_plane.store.now()
    monkeypatch.setattr(control_plane.store, "now", lambda: now + 12 * 3600 - 5)
    assert visitor.get("/").status_code == 200
    monkeypatch.setattr(control_plane.store, "now", lambda: now + 12 * 3600 + 5)
    assert visitor.get("/").status_code == 303


def test_signing_out_takes_the_cookie_back_even_from_those_who_only_look(control_plane: ControlPlane) -> None:
    viewer = sign_in(control_plane, Role.VIEWER)
    assert send(viewer, "/sign-out").headers["location"] == "/sign-in"
    assert COOKIE not in viewer.cookies
    assert viewer.get("/").status_code == 303


def test_a_link_from_elsewhere_is_loaded_again_so_that_the_strict_cookie_comes_along(stranger: TestClient) -> None:
    answer = stranger.get("/jobs/job-000000000000", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200 and 'http-equiv="refresh"' in answer.text


def test_a_service_without_keys_asks_for_none_and_serves_its_own_machine_alone(tmp_path) -> None:
    client = TestClient(create_app(make_control_plane(tmp_path, no_auth=True)), base_url=HERE, follow_redirects=False)
    assert "Sign out" not in client.get("/").text
    assert client.get("/sign-in").headers["location"] == "/"
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert send(client, "/submit", on="/submit", text=SPEC).status_code == 303
    assert client.post("/submit", data={"text": SPEC}, headers={"Origin": HERE}).status_code == 403


# what a sign-in is good for


def test_a_sign_in_reads_the_api_and_changes_nothing_there(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    assert visitor.get(f"/v1/jobs/{job}/artifacts/bundle/data.txt").text == "0123456789"
    assert visitor.get(f"/v1/jobs/{job}/report").status_code == 200
    for method, path in (("POST", f"/v1/jobs/{job}/archive"), ("DELETE", f"/v1/jobs/{job}"), ("POST", "/v1/jobs")):
        assert visitor.request(method, path, headers={"Origin": HERE}).status_code == 401


def test_forms_of_other_sites_and_of_other_sessions_change_nothing(
    visitor: TestClient, control_plane: ControlPlane
) -> None:
    job = control_plane.store.create_job(_spec())[0].id
    token, other = token_on(visitor, "/"), token_on(sign_in(control_plane), "/")
    tries = (
        (token, {"Origin": "http://evil.example"}),
        (token, {"Origin": "null"}),
        (token, {"Sec-Fetch-Site": "cross-site"}),
        (token, {"Sec-Fetch-Site": "same-site", "Origin": HERE}),
        (other, {"Origin": HERE}),
        ("", {"Origin": HERE}),
        ("ü", {"Origin": HERE}),
    )
    for csrf, headers in tries:
        answer = visitor.post(f"/jobs/{job}/cancel", data={"csrf": csrf}, headers=headers)
        assert answer.status_code == 403, (csrf, headers)
    assert control_plane.store.get_job(job).desired == Desired.RUN
    assert visitor.post("/sign-in", data={"key": "x"}, headers={"Origin": "http://evil.example"}).status_code == 403
    assert send(visitor, f"/jobs/{job}/cancel").status_code == 303
    assert control_plane.store.get_job(job).desired == Desired.CANCEL


def test_a_foreign_job_is_not_there_on_any_page(control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    other = sign_in(control_plane, tenant="others")
    for method, path in pages():
        if "{job_id}" in path:
            fields = {"csrf": token_on(other, "/")}
            answers = [
                other.request(
                    method, filled(path, id), data=fields if method == "POST" else None, headers={"Origin": HERE}
                )
                for id in (job, "job-000000000000")
            ]
            assert [answer.status_code for answer in answers] == [404, 404], (method, path)
    assert job not in other.get("/").text
    assert job not in other.get("/?tenant=default").text
    assert other.get(f"/submit?like={job}").status_code == 404
    operator = sign_in(control_plane, Role.OPERATOR, "house")
    assert job in operator.get("/?tenant=default").text


def test_viewers_look_and_are_offered_nothing_else(control_plane: ControlPlane) -> None:
    job = measured_job(control_plane.store, control_plane.settings, JobState.AWAITING_APPROVAL)
    viewer = sign_in(control_plane, Role.VIEWER)
    for page in ("", "/plans", "/tasks", "/data", "/events"):
        text = viewer.get(f"/jobs/{job}{page}").text
        assert re.findall(r'<form method="post" action="([^"]+)"', text) == ["/sign-out"], page
    assert viewer.get("/submit").status_code == 403
    for place in (f"/jobs/{job}/cancel", f"/jobs/{job}/plans/0/approve", "/submit", "/submit/check"):
        assert send(viewer, place, text=SPEC).status_code == 403
    control_plane.planner.close()


def test_who_signed_in_is_on_record(visitor: TestClient, control_plane: ControlPlane) -> None:
    row = control_plane.store.audit_log()[0]
    assert (row.action, row.status, row.tenant, row.role) == ("POST /sign-in", 303, "default", Role.SUBMITTER)
    assert row.key == control_plane.store.list_keys()[-1].prefix


def test_who_did_what_on_a_page_is_on_record(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = control_plane.store.create_job(_spec())[0].id
    send(visitor, f"/jobs/{job}/pause")
    row = control_plane.store.audit_log()[0]
    assert (row.action, row.job_id, row.status) == ("POST /jobs/{job_id}/{verb}", job, 303)
    assert row.key == control_plane.store.list_keys()[-1].prefix


# what a page is


def test_pages_run_and_load_nothing_but_files_of_ours(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    for path in ("/", "/submit", f"/jobs/{job}", f"/jobs/{job}/events", "/jobs/job-000000000000", "/sign-in"):
        answer = visitor.get(path)
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert not re.search(r'<script(?! src="/static/)|<style|\sstyle=|\son\w+=|javascript:', answer.text), path
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', visitor.get("/").text):
        answer = visitor.get(name)
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"], name


def test_errors_are_pages_and_say_what_the_api_would_say(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    refused = send(visitor, f"/jobs/{job}/cancel")
    assert refused.status_code == 409 and "cannot be cancelled" in refused.text
    assert "<h1>Conflict</h1>" in refused.text
    wrong = visitor.get("/?state=SLEEPING")
    assert wrong.status_code == 422 and "<h1>" in wrong.text
    part = visitor.get(f"/jobs/{job}/data/nothing", headers={"HX-Request": "true"})
    assert part.status_code == 404 and "<h1>" not in part.text and "has no task" in part.text


def test_what_strangers_wrote_is_text(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    evil = "<script>alert(1)</script>"
    waiting = control_plane.store.create_job(_spec())[0].id
    control_plane.store.add_event(waiting, "told", evil)
    for path in (f"/jobs/{waiting}/events", f"/jobs/{job}/tasks?text={evil}", f"/jobs/{job}/curves?task={evil}"):
        text = visitor.get(path).text
        assert evil not in text and "&lt;script&gt;" in text, path


@pytest.mark.parametrize("name", ["../page.py", "..%2fpage.py", "page.html", "nothing"])
def test_no_other_file_is_served_as_a_static_one(stranger: TestClient, name: str) -> None:
    assert stranger.get(f"/static/{name}").status_code == 404


# what the forms do


def _spec():
    from service.spec import parse_spec

    return parse_spec(SPEC)


def test_a_job_is_listed_where_its_filters_say(visitor: TestClient, control_plane: ControlPlane) -> None:
    done = run_to_the_end(control_plane)
    queued = control_plane.store.create_job(_spec())[0].id
    assert all(job in visitor.get("/").text for job in (done, queued))
    only = visitor.get("/?state=SUCCEEDED").text
    assert done in only and queued not in only
    send(visitor, f"/jobs/{done}/archive")
    assert done not in visitor.get("/").text and done in visitor.get("/?kept=archived").text
    send(visitor, f"/jobs/{done}/delete")
    assert done not in visitor.get("/?kept=archived").text and done in visitor.get("/?kept=deleted").text
    send(visitor, f"/jobs/{done}/restore")
    assert done in visitor.get("/?kept=archived").text


def test_the_list_goes_on_over_pages(visitor: TestClient, control_plane: ControlPlane) -> None:
    made = {control_plane.store.create_job(_spec())[0].id for _ in range(60)}
    first = visitor.get("/").text
    more = re.search(r'href="([^"]+)" rel="next"', first)
    assert more is not None
    second = visitor.get(unescape(more.group(1))).text
    shown = [set(re.findall(r"/jobs/(job-\w{12})", text)) for text in (first, second)]
    assert shown[0] | shown[1] == made and not shown[0] & shown[1]


def test_every_verb_that_is_offered_does_what_it_says(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = control_plane.store.create_job(_spec())[0].id
    seen = set()
    for verb, wish in (("pause", Desired.PAUSE), ("resume", Desired.RUN), ("cancel", Desired.CANCEL)):
        text = visitor.get(f"/jobs/{job}").text
        seen |= set(re.findall(rf'action="/jobs/{job}/(\w+)"', text))
        assert f'id="ask-{verb}"' in text
        assert send(visitor, f"/jobs/{job}/{verb}").headers["location"] == f"/jobs/{job}"
        assert control_plane.store.get_job(job).desired == wish
    assert seen == {"pause", "cancel", "clone", "priority", "resume"}
    assert 'id="ask-cancelnow"' in visitor.get(f"/jobs/{job}").text
    send(visitor, f"/jobs/{job}/cancel", mode="now")
    assert control_plane.store.get_job(job).at_once


def test_a_retry_that_is_sent_twice_is_one_job(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = control_plane.store.create_job(_spec())[0].id
    attempt = control_plane.store.start_attempt(job)
    control_plane.store.move(job, JobState.FAILED, attempt=attempt, reason="no luck")
    places = {send(visitor, f"/jobs/{job}/retry", once="one").headers["location"] for _ in range(2)}
    assert len(places) == 1 and places != {f"/jobs/{job}"}


def test_a_clone_has_what_is_different(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = run_to_the_end(control_plane)
    answer = send(visitor, f"/jobs/{job}/clone", name="again", overrides="training: {epochs: 9}", once="one")
    made = control_plane.store.get_job(answer.headers["location"].removeprefix("/jobs/"))
    assert (made.name, made.spec.training.epochs) == ("again", 9)
    assert send(visitor, f"/jobs/{job}/clone", overrides="- a list").status_code == 422


def test_priorities_are_numbers_in_their_range(visitor: TestClient, control_plane: ControlPlane) -> None:
    job = control_plane.store.create_job(_spec())[0].id
    assert send(visitor, f"/jobs/{job}/priority", priority="7").status_code == 303
    assert control_plane.store.get_job(job).priority == 7
    for wrong in ("101", "high", "", "1e3"):
        assert send(visitor, f"/jobs/{job}/priority", priority=wrong).status_code == 422


FORM = {
    "as": "form",
    "name": "from-a-form",
    "backbone.model": "demo",
    "method.kind": "mmap",
    "training.epochs": "3",
    "grouping.approve": "true",
    "tasks[0].name": "a",
    "tasks[0].source.kind": "folder",
    "tasks[0].source.uri": "a",
    "tasks[4].name": "b",
    "tasks[4].source.kind": "folder",
    "tasks[4].source.uri": "b",
    "tasks[4].shots": "2",
}


def test_a_form_becomes_the_job_that_it_describes(visitor: TestClient, control_plane: ControlPlane) -> None:
    answer = send(visitor, "/submit", on="/submit", **FORM)
    job = control_plane.store.get_job(answer.headers["location"].removeprefix("/jobs/"))
    spec = job.spec
    assert (spec.name, spec.training.epochs, spec.grouping.approve) == ("from-a-form", 3, True)
    assert [task.name for task in spec.tasks] == ["a", "b"]
    assert spec.tasks[1].split.shots == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_a_form_and_its_yaml_say_the_same_both_ways(visitor: TestClient) -> None:
    text = _text_of(send(visitor, "/submit", on="/submit", do="yaml", **FORM).text)
    assert "from-a-form" in text
    back = send(visitor, "/submit", on="/submit", do="form", text=text, **{"as": "yaml"}).text
    assert 'name="tasks[1].shots"' in back and 'value="from-a-form"' in back
    again = _text_of(send(visitor, "/submit", on="/submit", do="yaml", **_fields(back)).text)
    assert again == text
    digits = {"kind": "huggingface", "uri": "hf://datasets/org/digits", "revision": "0" * 40, "label_column": "digit"}
    shards = {"kind": "webdataset", "uri": "shards/{0..3}.tar", "label_extension": "txt"}
    tasks = [{"name": source["kind"], "source": source} for source in (digits, shards)]
    other = yaml.safe_dump({"name": "others", "backbone": {"model": "demo"}, "tasks": tasks}, sort_keys=False)
    form = send(visitor, "/submit", on="/submit", do="form", text=other, **{"as": "yaml"}).text
    assert _text_of(send(visitor, "/submit", on="/submit", do="yaml", **_fields(form)).text) == other
    rich = text + "search: {space: {training.lr: [0.1, 0.2]}}\n"
    kept = send(visitor, "/submit", on="/submit", do="form", text=rich, **{"as": "yaml"})
    assert kept.status_code == 422 and _text_of(kept.text) == rich


def test_tasks_are_added_to_a_form_and_taken_out_of_it(visitor: TestClient) -> None:
    more = _fields(send(visitor, "/submit", on="/submit", do="add", **FORM).text)
    assert more["tasks[5].name"] == "" and more["tasks[0].name"] == "a"
    fewer = _fields(send(visitor, "/submit", on="/submit", do="remove-0", **FORM).text)
    assert "tasks[0].name" not in fewer and fewer["tasks[4].name"] == "b"


def test_a_fault_is_told_at_its_field_and_what_was_written_stays(visitor: TestClient) -> None:
    wrong = FORM | {"training.epochs": "0", "tasks[4].name": "not a name"}
    answer = send(visitor, "/submit", on="/submit", **wrong)
    assert answer.status_code == 422
    assert re.search(r'id="fault-training-epochs"[^>]*>given 0;', answer.text)
    assert re.search(r'id="fault-tasks-4-name"[^>]*>given', answer.text)
    assert 'value="not a name"' in answer.text
    checked = send(visitor, "/submit/check", on="/submit", **wrong)
    assert checked.status_code == 200 and "2 faults" in checked.text
    assert re.search(r'id="fault-tasks-4-name" hx-swap-oob="true">given', checked.text)
    assert re.search(r'id="fault-name" hx-swap-oob="true"></small>', checked.text)


def test_a_check_looks_at_the_data_where_it_is_asked_to(visitor: TestClient) -> None:
    fields = FORM | {"tasks[4].source.uri": "missing"}
    quick = send(visitor, "/submit/check", on="/submit", **fields).text
    assert "as it should be" in quick and "was not looked at" in quick
    found = send(visitor, "/submit/check?data=true", on="/submit", **fields).text
    assert "is no folder" in found and "one, two" in found


def test_a_check_shows_how_many_images_every_class_has(visitor: TestClient, control_plane: ControlPlane) -> None:
    folder = control_plane.settings.home / "data" / "a"
    (folder / "one" / "1.png").write_bytes(b"not looked into")
    for number in range(120):
        (folder / f"more-{number:03}").mkdir()
        (folder / f"more-{number:03}" / "0.png").write_bytes(b"not looked into")
    found = send(visitor, "/submit/check?data=true", on="/submit", **FORM).text
    rows = re.findall(r'<tr><th scope="row">([\w-]+)</th><td class="num">(\d+)</td></tr>', found)
    assert rows == [(f"more-{number:03}", "1") for number in range(100)] + [("one", "1"), ("two", "1")]
    assert "and 22 more" in found
    assert "Estimate</em> finds those that cannot be read" in found


@pytest.mark.parametrize("text", ["", "a: &x 1\nb: *x\n", "!!python/object:os.system {}", "- 1", "{" * 100])
def test_pasted_text_that_is_no_description_is_told_so(visitor: TestClient, text: str) -> None:
    answer = send(visitor, "/submit", on="/submit?as=yaml", text=text)
    assert answer.status_code == 422 and "fault" in answer.text
    assert send(visitor, "/submit/check", on="/submit?as=yaml", text=text).status_code == 200


def test_an_estimate_is_asked_for_and_followed(visitor: TestClient, control_plane: ControlPlane) -> None:
    found = send(visitor, "/submit/estimate", on="/submit?as=yaml", text=SPEC).text
    place = re.search(r'hx-get="(/jobs/job-\w{12}/estimate)"', found)
    assert place is not None
    assert control_plane.store.list_jobs(purpose="estimate")[0][0].id in place.group(1)
    assert "hx-trigger" in visitor.get(place.group(1), headers={"HX-Request": "true"}).text
    job = place.group(1).split("/")[2]
    control_plane.store.move(job, JobState.FAILED, attempt=None, reason="no memory")
    ended = visitor.get(place.group(1), headers={"HX-Request": "true"}).text
    assert "no memory" in ended and "hx-trigger" not in ended


@pytest.fixture
def waiting(control_plane: ControlPlane) -> Iterator[str]:
    """A job that waits for an approval, its tasks measured, without a plan yet."""
    yield measured_job(control_plane.store, control_plane.settings, JobState.AWAITING_APPROVAL)
    control_plane.planner.close()


def test_plans_are_asked_for_compared_and_approved(
    visitor: TestClient, control_plane: ControlPlane, waiting: str
) -> None:
    first = send(visitor, f"/jobs/{waiting}/plans", num_groups="2")
    assert first.headers["location"] == f"/jobs/{waiting}/plans/0"
    send(visitor, f"/jobs/{waiting}/plans", groups="g1: a, b, c\ng2: [d, e, f]\n")
    assert "Compare" in visitor.get(f"/jobs/{waiting}/plans").text
    compared = visitor.get(f"/jobs/{waiting}/plans/compare?first=0&second=1").text
    assert "adjusted Rand index" in compared and f'action="/jobs/{waiting}/plans/1/approve"' in compared
    send(visitor, f"/jobs/{waiting}/plans/1/approve")
    assert [plan.approved for plan in control_plane.store.plans(waiting)] == [False, True]
    for wrong in ({}, {"num_groups": "99"}, {"groups": "g1: a"}, {"groups": "g1: 3"}, {"groups": "- a"}):
        assert send(visitor, f"/jobs/{waiting}/plans", **wrong).status_code == 422, wrong


def test_an_image_of_a_task_is_shown_as_it_is_and_nothing_else_of_the_machine(
    visitor: TestClient, control_plane: ControlPlane
) -> None:
    job = run_to_the_end(control_plane)
    folder = control_plane.settings.home / "data" / "a" / "one"
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    (control_plane.settings.home / "data" / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    (folder / "2.svg").write_bytes(b"<svg onload='alert(1)'/>")
    shown = visitor.get(f"/jobs/{job}/data/a/image", params={"key": "one/1.png"})
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
    assert shown.headers["content-security-policy"].startswith("sandbox")
    assert shown.headers["x-content-type-options"] == "nosniff"
    for key in ("one/0.png", "../secret.png", "one/2.svg", "one/../../secret.png", "", "/etc/passwd", "one/9.png"):
        assert visitor.get(f"/jobs/{job}/data/a/image", params={"key": key}).status_code == 404, key


def _text_of(page: str) -> str:
    found = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.S)
    assert found is not None
    return unescape(found.group(1))


def _fields(page: str) -> dict[str, str]:
    """What a browser would send of a form page's inputs and selects."""
    fields = {}
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and name.group(1) != "csrf" and ('type="checkbox"' not in tag or " checked" in tag):
            fields[unescape(name.group(1))] = unescape(value.group(1)) if value else ""
    for name, options in re.findall(r'<select[^>]* name="([^"]*)"[^>]*>(.*?)</select>', page, re.S):
        chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
        assert chosen is not None
        fields[name] = unescape(chosen.group(1))
    return fields
