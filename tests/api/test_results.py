"""What a finished job answers."""

import time
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service.artifacts import JobFiles
from service.control_plane import ControlPlane

Finish = Callable[[], str]


@pytest.fixture
def job(finish: Finish) -> str:
    return finish()


def test_groups_come_with_their_reasons_the_plan_first(api: TestClient, job: str) -> None:
    answer = api.get(f"/v1/jobs/{job}/groups").json()
    assert [group["id"] for group in answer["groups"]] == ["g1", "zero-shot"]
    assert answer["groups"][0]["why"] == "a and b agree."
    assert answer["groups"][0]["cohesion"] == 0.5
    assert [task["sentence"] for task in answer["tasks"]] == ["near b", "near a"]


def test_what_was_found_out_about_a_plan_is_told_once_it_is_there(
    api: TestClient, control_plane: ControlPlane, job: str
) -> None:
    plan = api.get(f"/v1/jobs/{job}/groups").json()["plan"]
    assert (plan["number"], plan["approved"], plan["reviewed"], plan["confidence"]) == (0, True, False, None)
    matrix = [[1.0, 0.75], [0.75, 1.0]]
    sure = {"word": "usable", "sentence": "Usable.", "rand_index": 0.5, "ambiguous": 0.1, "resamples": 50}
    sure |= {"task_names": ["b", "a"], "together": matrix, "low": matrix, "high": matrix}
    sure |= {"tasks": [{"task": "a", "together": 0.75, "margin": 0.5}]}
    agreement = {"first": "cross_fit", "second": "random", "spearman": None, "rand_index": 0.0}
    found = {"confidence": sure, "second_opinion": None, "agreements": [agreement]}
    files = JobFiles(control_plane.settings.storage, job)
    files.write_json("plans/0-review.json", found)
    answer = api.get(f"/v1/jobs/{job}/groups").json()
    assert answer["plan"]["confidence"]["word"] == "usable"
    assert answer["plan"]["agreements"] == [agreement]
    assert [(task["together"], task["together_margin"]) for task in answer["tasks"]] == [(0.75, 0.5), (None, None)]
    assert api.get(f"/v1/jobs/{job}/similarity").json()["together"] == matrix


def test_results_tell_gains_once_they_are_written(api: TestClient, control_plane: ControlPlane, job: str) -> None:
    assert api.get(f"/v1/jobs/{job}/results").json()["gains"] == []
    gain = {"task": None, "against": "zero_shot", "metric": "accuracy", "mean": 0.25, "low": -0.1, "high": 0.6}
    gain |= {"num_tasks": 2, "num_images": 20, "spans_zero": True}
    JobFiles(control_plane.settings.storage, job).write_json("gains.json", [gain])
    assert api.get(f"/v1/jobs/{job}/results").json()["gains"] == [gain]


def test_the_similarity_is_the_plans(api: TestClient, job: str) -> None:
    answer = api.get(f"/v1/jobs/{job}/similarity").json()
    assert answer["similarity"] == [[1.0, 0.5], [0.5, 1.0]]
    assert answer["order"] == ["a", "b"]
    assert api.get(f"/v1/jobs/{job}/plan").json()["origin"] == "gradients"
    assert api.get(f"/v1/jobs/{job}/plan?number=0").json()["origin"] == "gradients"
    assert api.get(f"/v1/jobs/{job}/plan?number=1").status_code == 404


def test_metric_pages_hold_every_number_once(api: TestClient, job: str) -> None:
    seen, after = [], 0
    while after is not None:
        page = api.get(f"/v1/jobs/{job}/metrics", params={"after": after, "limit": 3, "name": "loss"}).json()
        seen += [(metric["step"], metric["value"]) for metric in page["metrics"]]
        after = page["next"]
    assert seen == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]


def test_results_are_a_table_with_a_column_per_way(api: TestClient, job: str) -> None:
    answer = api.get(f"/v1/jobs/{job}/results").json()
    row = {"metric": "accuracy", "group": "g1", "zero_shot": 0.5, "alone": None, "all": None, "grouped": 0.75}
    assert answer["table"] == [{"task": "a", **row}, {"task": "b", **row}]
    assert len(answer["results"]) == 4


def test_logs_can_be_read_on_from_where_they_ended(api: TestClient, job: str) -> None:
    first = api.get(f"/v1/jobs/{job}/groups/g1/logs?limit=15")
    assert first.text == "first line\n"
    rest = api.get(f"/v1/jobs/{job}/groups/g1/logs?offset={first.headers['x-next-offset']}")
    assert rest.text == "second line\n"


def test_a_file_can_be_fetched_whole_in_part_and_not_again(api: TestClient, job: str) -> None:
    path = f"/v1/jobs/{job}/artifacts/bundle/data.txt"
    whole = api.get(path)
    assert whole.content == b"0123456789"
    part = api.get(path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert api.get(path, headers={"Range": "bytes=-3"}).content == b"789"
    again = api.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert api.get(path, headers={"If-None-Match": '"else"'}).status_code == 200
    changed = api.get(path, headers={"Range": "bytes=2-4", "If-Range": '"else"'})
    assert (changed.status_code, changed.content) == (200, b"0123456789")


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=4-2", "bytes=-0", "bytes=-", "bytes=x", "lines=1-2"])
def test_a_range_without_bytes_is_a_problem(api: TestClient, job: str, wanted: str) -> None:
    answer = api.get(f"/v1/jobs/{job}/artifacts/bundle/data.txt", headers={"Range": wanted})
    assert answer.status_code == 416
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize(
    "path",
    [
        "../../../settings.json",
        "%2e%2e/%2e%2e/%2e%2e/settings.json",
        "bundle/..%2f..%2f..%2f..%2fsettings.json",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..%5c..%5csettings.json",
        "bundle%00",
        "bundle",
        "link",
    ],
)
def test_no_path_leads_out_of_the_job(api: TestClient, control_plane: ControlPlane, job: str, path: str) -> None:
    secret = control_plane.settings.home / "settings.json"
    secret.write_text("secret")
    (JobFiles(control_plane.settings.storage, job).root / "link").symlink_to(secret)
    answer = api.get(f"/v1/jobs/{job}/artifacts/{path}")
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_no_log_leads_out_of_the_job(api: TestClient, job: str) -> None:
    assert api.get(f"/v1/jobs/{job}/groups/..%2f..%2fbundle%2fdata/logs").status_code == 404


def test_the_listing_names_every_file_with_its_size(api: TestClient, job: str) -> None:
    files = {file["path"]: file["size"] for file in api.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]}
    assert files["bundle/data.txt"] == 10
    assert set(files) == {"bundle/data.txt", "bundle/report.html", "logs/g1.log", "plans/0.json"}


def test_the_report_is_a_page_that_may_run_nothing(api: TestClient, job: str) -> None:
    answer = api.get(f"/v1/jobs/{job}/report")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text == "<h1>Report</h1>"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_alive_asks_nothing_and_ready_names_what_fails(control_plane: ControlPlane) -> None:
    app = create_app(control_plane)
    with TestClient(app) as client:
        assert client.get("/livez").status_code == 200
        missing = client.get("/readyz")  # nobody has made the storage folder
        assert missing.status_code == 503
        assert "storage" in missing.json()["checks"]["storage"]
        assert str(control_plane.settings.home) not in missing.text, "nobody was asked for a key"
        (control_plane.settings.home / "storage").mkdir()
        assert client.get("/readyz").json() == {
            "ready": True,
            "checks": {"database": True, "storage": True, "ray": True},
        }
        control_plane.ray_jobs.reachable = False  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "Ray does not answer" in answer.json()["checks"]["ray"]
        control_plane.ray_jobs.reachable = True  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        app.state.closing.set()
        assert client.get("/readyz").json()["checks"]["serving"] == "The service is about to end."
        assert client.get("/livez").status_code == 200


def test_the_numbers_count_jobs_by_state_and_requests_by_route(api: TestClient, job: str) -> None:
    api.get(f"/v1/jobs/{job}")
    api.get("/nowhere")
    text = api.get("/metrics").text
    assert 'cohort_jobs{state="SUCCEEDED"} 1.0' in text
    assert 'cohort_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0' in text
    assert 'route="unknown",status="404"' in text
    assert job not in text


def test_events_are_told_in_order_and_from_where_one_asks(api: TestClient, job: str) -> None:
    events = api.get(f"/v1/jobs/{job}/events").json()["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["data"]["to"] == "SUCCEEDED"
    page = api.get(f"/v1/jobs/{job}/events?after=2&limit=1").json()["events"]
    assert [event["seq"] for event in page] == [3]


def test_a_stream_of_a_finished_job_tells_all_and_ends(api: TestClient, job: str) -> None:
    began = time.monotonic()
    answer = api.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "3"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    ids = [int(line.removeprefix("id: ")) for line in answer.text.splitlines() if line.startswith("id: ")]
    count = len(api.get(f"/v1/jobs/{job}/events").json()["events"])
    assert ids == list(range(4, count + 1))
    assert answer.text.rstrip().splitlines()[-2] == "event: end"
    assert time.monotonic() - began < 5
