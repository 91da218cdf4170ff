"""Laws of where a tenant's data may come from: its own roots, on every way into a job."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from api.app import create_app
from service.control_plane import ControlPlane
from service.roles import Role
from service.settings import Settings
from service.spec import parse_spec
from tests.api.conftest import SPEC, YAML, make_control_plane, run_to_the_end
from workers.clip.config import BackboneConfig

SCHEMES = ["file", "s3", "hf"]


@pytest.fixture
def control_plane(tmp_path: Path) -> ControlPlane:
    for tenant in ("red", "blue"):
        for label in ("one", "two"):
            folder = tmp_path / tenant / "animals" / label
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(b"not looked into")
    roots = {"red": [str(tmp_path / "red"), "s3://shared/red"], "blue": [str(tmp_path / "blue")]}
    return make_control_plane(tmp_path, tenant_roots=roots, data_schemes=SCHEMES)


@pytest.fixture
def client(control_plane: ControlPlane) -> TestClient:
    return TestClient(create_app(control_plane))


def as_(control_plane: ControlPlane, tenant: str) -> dict[str, str]:
    key = control_plane.store.create_key(tenant, tenant=tenant, role=Role.SUBMITTER)
    return {"Authorization": f"Bearer {key}"} | YAML


def spec(uri: str, **more: Any) -> str:
    tasks = [{"name": "animals", "source": {"kind": "folder", "uri": uri}}]
    return yaml.safe_dump({"name": "x", "backbone": {"model": "demo"}, "tasks": tasks} | more)


def is_taken(client: TestClient, headers: dict[str, str], text: str) -> bool:
    """Whether submission and validation, which must agree, let it through."""
    answer = client.post("/v1/jobs", content=text, headers=headers)
    checked = client.post("/v1/jobs/validate", content=text, headers=headers).json()
    told = [fault["problem"] for fault in checked["faults"]] + [task["problem"] or "" for task in checked["tasks"]]
    assert answer.status_code in (202, 422), answer.text
    assert any("outside the data roots" in problem for problem in told) == (answer.status_code == 422)
    return answer.status_code == 202


def test_a_tenant_reads_its_own_roots_and_nobody_elses(
    client: TestClient, control_plane: ControlPlane, tmp_path: Path
) -> None:
    for tenant, other in (("red", "blue"), ("blue", "red")):
        headers = as_(control_plane, tenant)
        assert is_taken(client, headers, spec("animals"))  # relative: from its own root
        assert is_taken(client, headers, spec(str(tmp_path / tenant / "animals")))
        for way in (f"{tmp_path}/{other}/animals", f"../{other}/animals", f"file://{tmp_path}/{other}/animals"):
            assert not is_taken(client, headers, spec(way))
        assert not is_taken(client, headers, spec(str(tmp_path / "data" / "a")))  # what tenants without roots share
    assert client.post("/v1/jobs", content=SPEC, headers=as_(control_plane, "green")).status_code == 202


def test_a_link_out_of_a_tenants_root_leads_nowhere(
    client: TestClient, control_plane: ControlPlane, tmp_path: Path
) -> None:
    (tmp_path / "red" / "way").symlink_to(tmp_path / "blue" / "animals")
    assert not is_taken(client, as_(control_plane, "red"), spec("way"))


def test_remote_data_is_held_to_the_tenants_uris(control_plane: ControlPlane) -> None:
    red, blue, green = (control_plane.settings.roots_of(tenant) for tenant in ("red", "blue", "green"))
    assert red.check("s3://shared/red/animals") == "s3://shared/red/animals"
    assert red.check("S3://shared/red/animals") == "s3://shared/red/animals"
    for uri in ("s3://shared/redder", "s3://shared/blue", "s3://shared/red/../blue", "s3://Shared/red", "hf://org/x"):
        with pytest.raises(ValueError, match=r"outside the data roots|without `\.\.`"):
            red.check(uri)
    with pytest.raises(ValueError, match="of folders alone"):
        blue.check("s3://shared/blue")
    assert green.check("s3://anything/at/all")  # no URI among the roots: what the schemes allow


@pytest.mark.parametrize("model", ["local-dir:{}/blue/clip", "local-dir:../blue/clip", "hf-hub:someone/else"])
def test_backbones_are_held_to_the_same_roots(
    client: TestClient, control_plane: ControlPlane, tmp_path: Path, model: str
) -> None:
    backbone = {"model": model.format(tmp_path)}
    assert not is_taken(client, as_(control_plane, "red"), spec("animals", backbone=backbone))
    BackboneConfig.model_validate(backbone).check(
        control_plane.settings.roots_of("blue" if "local" in model else "green")
    )


def test_tasks_that_join_a_finished_job_are_held_to_its_tenants_roots(
    client: TestClient, control_plane: ControlPlane, tmp_path: Path
) -> None:
    text = SPEC.replace("uri: a", "uri: animals").replace("uri: b", "uri: animals")
    job = control_plane.store.create_job(parse_spec(text), tenant="red")[0].id
    run_to_the_end(control_plane, job)
    for name in ("datasets.json", "profile/signatures.npz"):
        place = Path(control_plane.settings.storage) / "jobs" / job / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    tasks = {"tasks": [{"name": "new", "source": {"kind": "folder", "uri": f"{tmp_path}/blue/animals"}}]}
    operator = control_plane.store.create_key("house", tenant="blue", role=Role.OPERATOR)
    for headers in (as_(control_plane, "red"), {"Authorization": f"Bearer {operator}"} | YAML):
        answer = client.post(f"/v1/jobs/{job}/tasks", content=yaml.safe_dump(tasks), headers=headers)
        assert (answer.status_code, "outside the data roots" in answer.text) == (422, True), answer.text


def test_what_the_service_keeps_is_no_data_even_where_a_root_holds_it(tmp_path: Path) -> None:
    home, bucket = tmp_path / "var", "s3://bucket/storage"
    (home / "data").mkdir(parents=True)
    values = {"home": home, "data_roots": [str(tmp_path), str(home / "data")], "data_schemes": SCHEMES}
    roots = Settings.model_validate(values).roots_of("anybody")
    for place in ("var/running.json", "var", "var/storage/jobs/job-x/spec.json", "var/cohort.db"):
        with pytest.raises(ValueError, match="outside the data roots"):
            roots.check(str(tmp_path / place))
    assert roots.check(str(home / "data" / "cats")) == str(home / "data" / "cats")  # a root inside is one
    assert roots.check("elsewhere") == str(tmp_path / "elsewhere")
    far = Settings.model_validate(values | {"storage": bucket}).roots_of("anybody")
    assert far.check("s3://bucket/images") == "s3://bucket/images"
    with pytest.raises(ValueError, match="outside the data roots"):
        far.check(f"{bucket}/jobs/job-x/bundle")
