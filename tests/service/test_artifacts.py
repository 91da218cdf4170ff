"""A job's files: whole or absent, and never outside its folder."""

from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from service.artifacts import JobFiles
from service.errors import ArtifactNotFound
from workers.seals import Damaged
from workers.storage import write


@pytest.fixture
def files(storage: Path) -> JobFiles:
    return JobFiles(storage, "job-1")


def test_json_comes_back_and_is_listed(files: JobFiles) -> None:
    files.write_json("plans/0.json", {"groups": [1]})
    files.append_log("g1", ["one", "two"])
    assert files.read_json("plans/0.json") == {"groups": [1]}
    assert [info.path for info in files.list()] == ["logs/g1.log", "plans/0.json"]
    assert files.read_range("logs/g1.log", 4, 3) == b"two"


def test_no_wrong_bit_in_an_artifact_passes_for_what_was_written(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, "job-1")
    place = files.write_json("plans/0.json", {"groups": [1]})
    whole = place.read_bytes()
    for at in range(len(whole)):
        for wrong in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            place.write_bytes(wrong)
            with pytest.raises(Damaged, match=r"plans/0\.json is damaged"):
                files.is_whole("plans/0.json")


def test_json_of_older_versions_has_no_seal_and_is_read(files: JobFiles) -> None:
    write(files.path("plans/0.json"), b'{"groups": [1]}')
    assert files.read_json("plans/0.json") == {"groups": [1]} and files.is_whole("plans/0.json")


def test_a_write_that_fails_leaves_the_old_file(files: JobFiles) -> None:
    files.write_json("spec.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json("spec.json", {"a": float("nan")})
    assert files.read_json("spec.json") == {"a": 1}
    assert [info.path for info in files.list()] == ["spec.json"]


@pytest.mark.parametrize(
    "path", ["../job-2/spec.json", "/etc/passwd", "a/../../x", "a\0b", "..", "a\\b", "missing", ""]
)
def test_no_path_leads_out_of_the_folder(files: JobFiles, path: str) -> None:
    files.write_json("spec.json", {})
    with pytest.raises(ArtifactNotFound):
        files.read_range(path)


def test_a_link_that_leads_out_is_no_artifact(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, "job-1")
    (tmp_path / "secret").write_text("x")
    files.root.mkdir(parents=True)
    (files.root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactNotFound):
        files.read_text("link")
    assert files.list() == []


def test_a_log_that_no_storage_takes_ends_no_job(files: JobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(place: Path, text: str) -> None:
        raise EndpointConnectionError(endpoint_url="http://away")

    monkeypatch.setattr("service.artifacts.append", away)
    files.append_log("g1", ["one line"])
    assert not files.exists("logs/g1.log")
