"""What compose and Kubernetes would start, started here on machines of our own (namespaces), does a job.

The containers' engine, the registry and the Kubernetes API are not there: their part is done by the rehearsal.
"""

from pathlib import Path

import pytest

from tests.deploy import machines
from tests.deploy.rehearsal import Image, do_a_job, driver_logs, start_compose
from tests.deploy.rendered import SECRETS, compose

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def namespaces() -> None:
    reason = machines.why_not()
    if reason is not None:
        pytest.skip(f"machines cannot be made here: {reason}")


def test_what_compose_starts_does_a_job(tmp_path: Path) -> None:
    folders = {"/srv/cohort/storage": tmp_path / "storage", "/srv/cohort/data": tmp_path / "data"}
    for folder in folders.values():
        folder.mkdir()
    image = Image()
    with machines.network() as network:
        started = start_compose(network, image, folders)
        environment = compose(SECRETS)["services"]["control-plane"]["environment"]
        job = do_a_job(image, started["control-plane"], environment)
        assert job["state"] == "SUCCEEDED", job
        assert driver_logs(started["ray-head"]), "the driver ran where drivers belong"
        assert not driver_logs(started["ray-worker"]), "and not where computing is done"
        assert (tmp_path / "storage" / "jobs" / job["id"] / "bundle" / "manifest.json").exists()
