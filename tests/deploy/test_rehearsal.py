"""What compose and Kubernetes would start, started here on machines of our own (namespaces), does a job.

A container engine, NVIDIA devices, KubeRay and the Kubernetes API are not there; the rehearsal does their part.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import machines
from tests.deploy.machines import Network
from tests.deploy.rehearsal import (
    Image,
    do_a_job,
    driver_logs,
    of_prometheus,
    start_compose,
    start_kubernetes,
    start_prometheus,
    until,
)
from tests.deploy.rendered import SECRETS, compose, plain_expressions

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]
NOT_HERE = {"training: GPU", "training: GPU memory"}
"""Panels of what there is none of."""
FILES = ("/srv/cohort/storage", "/srv/cohort/data")


@pytest.fixture
def network() -> Iterator[Network]:
    reason = machines.why_not()
    if reason is not None:
        pytest.skip(f"machines cannot be made here: {reason}")
    with machines.network() as made:
        yield made


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, Path]:
    """What all machines mount."""
    folders = {place: tmp_path / Path(place).name for place in FILES}
    for folder in folders.values():
        folder.mkdir()
    return folders


def test_what_compose_starts_does_a_job(network: Network, shared: dict[str, Path]) -> None:
    image = Image()
    started = start_compose(network, image, shared)
    environment = compose(SECRETS)["services"]["control-plane"]["environment"]
    job = do_a_job(image, started["control-plane"], environment)
    assert job["state"] == "SUCCEEDED", job
    assert driver_logs(started["ray-head"]), "the driver ran where drivers belong"
    assert not driver_logs(started["ray-worker"]), "and not where computing is done"
    assert (shared["/srv/cohort/storage"] / "jobs" / job["id"] / "bundle" / "manifest.json").exists()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: prometheus)")
def test_prometheus_finds_all_that_dashboards_show(network: Network, shared: dict[str, Path]) -> None:
    image, began = Image(), time.time()
    started = start_compose(network, image, shared)
    prometheus = start_prometheus(network)
    environment = compose(SECRETS)["services"]["control-plane"]["environment"]
    job = do_a_job(image, started["control-plane"], environment, max_steps=1500, validations=20)
    assert job["state"] == "SUCCEEDED", job
    targets = of_prometheus(prometheus, "targets")["activeTargets"]
    assert {target["scrapeUrl"]: target["lastError"] for target in targets} == {
        f"http://{name}:8080/metrics": "" for name in ("control-plane", "ray-head", "ray-worker")
    }
    rules = [rule for group in of_prometheus(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
    panels = [(place, text) for place, text in plain_expressions("10s") if ": " in place]

    def empty() -> set[str]:
        when = {"start": str(began), "end": str(time.time()), "step": "1s"}
        shown = [
            place for place, text in panels if of_prometheus(prometheus, "query_range", query=text, **when)["result"]
        ]
        return {place for place, _ in panels} - set(shown)

    until(lambda: empty() == NOT_HERE, prometheus, f"no panels but {NOT_HERE} are empty", seconds=60)


def test_what_kubernetes_starts_does_a_job_even_when_a_control_plane_goes(
    network: Network, shared: dict[str, Path]
) -> None:
    image = Image()
    started, environment = start_kubernetes(network, image, "kuberay-gpu", shared)
    started["cohort-control-plane-1"].close()
    job = do_a_job(image, started["cohort-control-plane-2"], environment)
    assert job["state"] == "SUCCEEDED", job
    assert driver_logs(started["drivers"]), "the driver ran where drivers belong"
    assert not driver_logs(started["gpu"]), "and not where computing is done"
    assert not driver_logs(started["cohort-ray-head-svc"]), "nor on the head"
