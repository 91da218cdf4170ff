"""What compose and Kubernetes would start, started here on machines of our own (namespaces), does a job.

A container engine, NVIDIA devices, KubeRay and the Kubernetes API are not there; the rehearsal does their part.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import machines
from tests.deploy.machines import Network
from tests.deploy.rehearsal import Image, do_a_job, driver_logs, start_compose, start_kubernetes
from tests.deploy.rendered import SECRETS, compose

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]
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
