"""Laws of files that lie in an object store: they are served as those in a folder are."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service.artifacts import JobFiles
from service.control_plane import ControlPlane
from tests.api.conftest import make_control_plane, run_to_the_end
from tests.object_stores import SECRET, ObjectStore

FILE = "bundle/data.txt"
LARGE = bytes(range(256)) * 10_000


@pytest.fixture(params=["folder", "s3"])
def control_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    home = tmp_path_factory.mktemp("home")
    if request.param == "folder":
        return make_control_plane(home)
    found: ObjectStore = request.getfixturevalue("object_store")
    found.faults.clear()
    return make_control_plane(home, storage=found.make_bucket(), storage_options=found.options)


@pytest.fixture
def job(control_plane: ControlPlane) -> str:
    return run_to_the_end(control_plane)


@pytest.fixture
def stranger(control_plane: ControlPlane) -> Iterator[TestClient]:
    with TestClient(create_app(control_plane), raise_server_exceptions=False) as client:
        yield client


def files(control_plane: ControlPlane, job: str) -> JobFiles:
    return JobFiles(control_plane.settings.storage_place, job)


@pytest.mark.parametrize("by", ["artifact", "link"])
def test_a_file_is_served_whole_in_part_not_again_and_by_its_headers(
    api: TestClient, stranger: TestClient, job: str, by: str
) -> None:
    client, path = api, f"/v1/jobs/{job}/artifacts/{FILE}"
    if by == "link":
        client, path = stranger, urlsplit(api.post(f"{path}/url").json()["url"]).path
    whole = client.get(path)
    tag = whole.headers["etag"]
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, b"0123456789", "bytes")
    assert (
        whole.headers["content-type"].startswith("text/plain") and "sandbox" in whole.headers["content-security-policy"]
    )
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
    assert (head.headers["etag"], head.headers["last-modified"]) == (tag, whole.headers["last-modified"])
    for wanted, content, told in (
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=0-99", b"0123456789", "bytes 0-9/10"),
    ):
        part = client.get(path, headers={"Range": wanted})
        assert (part.status_code, part.content, part.headers["content-range"]) == (206, content, told)
        assert part.headers["content-length"] == str(len(content)) and part.headers["etag"] == tag
    assert client.head(path, headers={"Range": "bytes=2-4"}).headers["content-length"] == "3"
    for wanted in ("bytes=10-", "bytes=4-2", "lines=1-2"):
        refused = client.get(path, headers={"Range": wanted})
        assert (refused.status_code, refused.headers["content-range"]) == (416, "bytes */10")
    for known in (tag, f'"else", {tag}', f"W/{tag}", "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"else"'}).status_code == 200
    same = client.get(path, headers={"Range": "bytes=2-4", "If-Range": tag})
    changed = client.get(path, headers={"Range": "bytes=2-4", "If-Range": '"else"'})
    assert [(answer.status_code, answer.content) for answer in (same, changed)] == [(206, b"234"), (200, b"0123456789")]


def test_another_content_has_another_tag(api: TestClient, control_plane: ControlPlane, job: str) -> None:
    path = f"/v1/jobs/{job}/artifacts/{FILE}"
    before = api.get(path).headers["etag"]
    files(control_plane, job).write_text(FILE, "9876543210")
    after = api.get(path, headers={"If-None-Match": before})
    assert (after.status_code, after.text) == (200, "9876543210")


def test_a_large_file_comes_in_pieces_and_in_any_part(api: TestClient, control_plane: ControlPlane, job: str) -> None:
    place = files(control_plane, job).path("bundle/large.bin")
    place.write_bytes(LARGE)
    path = f"/v1/jobs/{job}/artifacts/bundle/large.bin"
    assert api.get(path).content == LARGE
    part = api.get(path, headers={"Range": "bytes=1000-2000000"})
    assert (part.status_code, part.content) == (206, LARGE[1000:2_000_001])


def test_the_listing_the_report_and_the_logs_are_there(api: TestClient, job: str) -> None:
    listed = {file["path"]: file["size"] for file in api.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]}
    assert listed[FILE] == 10 and set(listed) == {FILE, "bundle/report.html", "logs/g1.log", "plans/0.json"}
    assert api.get(f"/v1/jobs/{job}/report").text == "<h1>Report</h1>"
    assert api.head(f"/v1/jobs/{job}/report").headers["content-length"] == "15"
    assert api.get(f"/v1/jobs/{job}/groups/g1/logs?offset=11").text == "second line\n"
    assert api.get(f"/v1/jobs/{job}/plan").json()["origin"] == "gradients"


@pytest.mark.parametrize("path", ["nothing.txt", "bundle", "..%2f..%2fother", "%2fetc%2fpasswd", "bundle%00"])
def test_what_is_not_there_is_not_found(api: TestClient, job: str, path: str) -> None:
    assert api.get(f"/v1/jobs/{job}/artifacts/{path}").status_code == 404
    assert api.head(f"/v1/jobs/{job}/artifacts/{path}").status_code == 404


def test_a_damaged_file_that_is_needed_is_named_and_one_that_is_not_is_left_out(
    api: TestClient, stranger: TestClient, control_plane: ControlPlane, key: str, job: str
) -> None:
    stranger.headers["Authorization"] = f"Bearer {key}"
    kept = files(control_plane, job)
    kept.write_json("arbitration.json", {"groups": {}})
    for path in ("arbitration.json", "plans/0.json"):
        kept.path(path).write_bytes(kept.path(path).read_bytes().replace(b"groups", b"grouqs"))
        groups = stranger.get(f"/v1/jobs/{job}/groups")
        if path == "arbitration.json":
            assert groups.status_code == 200 and groups.json()["plan"]["arbitration"] is None
    assert groups.status_code == 500 and groups.headers["content-type"] == "application/problem+json"
    assert groups.json()["title"] == "Artifact damaged" and "plans/0.json is damaged" in groups.json()["detail"]


@pytest.mark.parametrize("control_plane", ["s3"], indirect=True)
def test_a_store_that_stays_away_is_told_without_its_secrets(
    stranger: TestClient, key: str, job: str, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    object_store.faults = dict.fromkeys(("GET", "HEAD"), ["503"] * 50)
    answer = stranger.get(f"/v1/jobs/{job}/artifacts/{FILE}", headers={"Authorization": f"Bearer {key}"})
    object_store.faults = {}
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["title"] == "Storage unavailable"
    assert SECRET not in answer.text + caplog.text
