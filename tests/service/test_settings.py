"""Settings: the environment over a private file over defaults."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.private_files import private_secret
from service.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("COHORT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COHORT_HOME", str(tmp_path))
    return tmp_path


def write(path: Path, mode: int, **values: object) -> None:
    path.write_text(json.dumps(values))
    path.chmod(mode)


def test_everything_lives_in_the_home_by_default(home: Path) -> None:
    settings = Settings.load()
    assert settings.home == home
    assert settings.database_url == f"sqlite:///{home}/cohort.db"
    assert settings.storage == f"{home}/storage"
    assert all(Path(root).is_absolute() for root in settings.data_roots)


def test_the_environment_wins_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "settings.json", 0o600, port=1234, max_attempts=7)
    monkeypatch.setenv("COHORT_PORT", "4321")
    monkeypatch.setenv("COHORT_DATA_ROOTS", "/a:/b")
    settings = Settings.load()
    assert (settings.port, settings.max_attempts, settings.data_roots) == (4321, 7, ["/a", "/b"])


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_settings_file_that_others_can_reach_is_refused(home: Path, mode: int) -> None:
    write(home / "settings.json", mode, port=1234)
    with pytest.raises(ValueError, match="chmod 600"):
        Settings.load()


def test_misspelt_and_wrong_settings_are_refused_in_words(home: Path) -> None:
    write(home / "settings.json", 0o600, prot=1)
    with pytest.raises(ValueError, match=r"unknown setting\(s\) \['prot'\]"):
        Settings.load()
    write(home / "settings.json", 0o600, port="http")
    with pytest.raises(ValueError, match=r"settings\.json: port: "):
        Settings.load()
    write(home / "settings.json", 0o600, storage="http://bucket/x")
    with pytest.raises(ValueError, match="expected a folder"):
        Settings.load()


def test_a_driver_reads_what_the_control_plane_runs_with(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Settings(
        home=home, database_url="sqlite:////x/y.db", ray_token=SecretStr("geheim"), data_roots=["/d"], port=1
    )
    path = ours.write_running()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "geheim" not in repr(ours)
    monkeypatch.setenv("COHORT_SETTINGS_FILE", str(path))
    assert Settings.load() == ours


def test_jobs_read_files_alone_until_the_operator_switches_a_scheme_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="this service reads file"):
        Settings.load().roots_of("anybody").check("s3://bucket/images")
    monkeypatch.setenv("COHORT_DATA_SCHEMES", "file, s3")
    settings = Settings.load()
    assert settings.data_schemes == ["file", "s3"]
    assert settings.roots_of("anybody").check("s3://bucket/images") == "s3://bucket/images"
    monkeypatch.setenv("COHORT_DATA_SCHEMES", "ftp")
    with pytest.raises(ValueError, match=r"data_schemes: .*'ftp'.* unknown"):
        Settings.load()


@pytest.mark.parametrize("share", ["0", "1.5", "-1"])
def test_a_device_worker_takes_a_share_of_one_gpu(home: Path, monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    monkeypatch.setenv("COHORT_GPUS_PER_WORKER", share)
    with pytest.raises(ValueError, match="gpus_per_worker: "):
        Settings.load()


def test_roots_may_be_uris_and_a_tenants_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORT_DATA_ROOTS", f"{home}:s3://bucket/all:file:///tmp")
    monkeypatch.setenv("COHORT_DATA_SCHEMES", "file,s3")
    monkeypatch.setenv("COHORT_TENANT_ROOTS", json.dumps({"red": ["s3://bucket/red", "red"]}))
    settings = Settings.load()
    assert settings.data_roots == [str(home), "s3://bucket/all", "/tmp"]
    assert settings.roots_of("blue").check("s3://bucket/all/x") == "s3://bucket/all/x"
    with pytest.raises(ValueError, match="outside the data roots"):
        settings.roots_of("blue").check("s3://bucket/red/x")
    assert settings.roots_of("red").check("s3://bucket/red/x") == "s3://bucket/red/x"
    assert settings.roots_of("red").file_roots == (str(Path("red").resolve()),)
    monkeypatch.setenv("COHORT_TENANT_ROOTS", json.dumps({"red": ["ftp://x"]}))
    with pytest.raises(ValueError, match=r"tenant_roots: .*'ftp'.* unknown"):
        Settings.load()


def test_a_secret_that_is_asked_for_by_many_at_once_is_one(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: private_secret(tmp_path / "secret"), range(64)))
    assert len(found) == 1 and len(found.pop()) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_what_tells_services_apart_is_where_their_jobs_are_and_holds_no_credential(home: Path) -> None:
    services = [
        Settings(home=home, database_url=f"postgresql://cohort:{password}@db.example/{name}", storage="s3://bucket/x")
        for password, name in (("secret-1", "jobs"), ("secret-2", "jobs"), ("secret-1", "others"))
    ]
    same, again, other = (service.service_id for service in services)
    assert same == again != other
    assert "secret" not in same
