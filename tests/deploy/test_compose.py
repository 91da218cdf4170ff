"""compose.yaml: what it starts agrees with itself, with the settings, and with what Prometheus looks for."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.deploy.rendered import DEPLOY, SECRETS, Unset, compose, docker_compose

OURS = ("ray-head", "ray-worker", "control-plane")


@pytest.fixture
def services() -> dict[str, Any]:
    return compose(SECRETS)["services"]


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_nothing_starts_with_a_secret_left_out(missing: str) -> None:
    with pytest.raises(Unset, match=missing):
        compose({name: value for name, value in SECRETS.items() if name != missing})


def test_the_example_names_every_variable_and_no_secret() -> None:
    lines = [line for line in (DEPLOY / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    assert set(SECRETS) <= set(example)
    assert not any(example[name] for name in SECRETS)
    assert set(example) <= set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))


def test_services_of_ours_share_one_image_and_no_privilege(services: dict[str, Any]) -> None:
    assert {services[name]["image"] for name in OURS} == {"cohort"}
    for name in OURS:
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_ours_is_a_setting_and_good(
    services: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in services[name]["environment"].items():
        monkeypatch.setenv(variable, value)
        if variable.startswith("COHORT_"):
            assert variable.removeprefix("COHORT_").lower() in Settings.model_fields
    settings = Settings.load(home=tmp_path)
    assert settings.storage == "/srv/cohort/storage"
    assert settings.data_roots == ["/srv/cohort/data"]


def test_workers_know_no_database(services: dict[str, Any]) -> None:
    assert not [name for name in services["ray-worker"]["environment"] if "DATABASE" in name or "POSTGRES" in name]


def test_drivers_start_where_nothing_is_computed(services: dict[str, Any]) -> None:
    wanted = json.loads(services["control-plane"]["environment"]["COHORT_DRIVER_RESOURCES"])
    (offered,) = (each for each in services["ray-head"]["command"] if each.startswith("--resources="))
    assert set(wanted) <= set(json.loads(offered.removeprefix("--resources=")))
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(services["ray-head"]["command"])
    assert not [each for each in services["ray-worker"]["command"] if "resources" in each]


def test_one_token_opens_ray(services: dict[str, Any]) -> None:
    token = services["control-plane"]["environment"]["COHORT_RAY_TOKEN"]
    for name in ("ray-head", "ray-worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert services[name]["environment"]["RAY_AUTH_TOKEN"] == token


def test_only_the_api_and_grafana_are_reached_from_outside_and_only_from_this_machine(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(ports) == {"control-plane", "grafana"}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)


def test_every_volume_that_is_mounted_is_there(services: dict[str, Any]) -> None:
    named = set(compose(SECRETS)["volumes"])
    for service in services.values():
        for source, *_ in (volume.split(":") for volume in service.get("volumes", [])):
            if source.startswith("./"):
                assert (DEPLOY / source).is_dir(), source
            elif not source.startswith("../"):
                assert source in named, source


def test_prometheus_finds_every_service_that_tells_numbers(services: dict[str, Any]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    found = {
        (name, each["port"])
        for job in config["scrape_configs"]
        for each in job["dns_sd_configs"]
        for name in each["names"]
    }
    for name in ("ray-head", "ray-worker"):
        assert "--metrics-export-port=8080" in services[name]["command"]
    assert found == {(name, 8080) for name in OURS}


def test_docker_compose_takes_it_as_we_do(tmp_path: Path) -> None:
    command = docker_compose()
    if command is None:
        pytest.skip("no docker compose on this machine")
    variables = tmp_path / "env"
    variables.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    files = [f"--file={DEPLOY / name}" for name in ("compose.yaml", "compose.gpu.yaml")]
    done = subprocess.run(
        [*command, f"--env-file={variables}", *files, "config", "--format=json"],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    theirs, ours = json.loads(done.stdout)["services"], compose(SECRETS)["services"]
    for name in OURS:
        assert theirs[name]["command"] == ours[name]["command"]
        assert theirs[name]["environment"] == ours[name]["environment"]
        assert set(theirs[name].get("depends_on", {})) == set(ours[name].get("depends_on", {}))
    (device,) = theirs["ray-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
