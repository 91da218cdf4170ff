"""The real dashboard of a real Ray, looked at in a real browser through the control plane."""

from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from service.control_plane import ControlPlane
from service.errors import RayUnavailable
from service.ray_head import RayHead
from service.ray_jobs import FakeRayJobs, RayJobs
from service.roles import Role
from service.settings import Settings
from service.store import Store
from tests.api.conftest import served

pytestmark = [pytest.mark.ray, pytest.mark.browser, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_an_operator_sees_the_jobs_and_actors_without_the_token(browser: Browser, tmp_path: Path) -> None:
    head = RayHead(Settings(home=tmp_path, num_cpus=1))
    try:
        head.start(lambda address: RayJobs(address, head.token).alive())
        _submit(RayJobs(head.address, head.token, entrypoint=("true",)))
        settings = Settings.model_validate(
            {"home": tmp_path, "ray_address": head.address, "ray_token": head.token, "poll_seconds": 0.05}
        )
        control_plane = ControlPlane(settings, store=Store("sqlite://"), ray_jobs=FakeRayJobs())
        key = control_plane.store.create_key("eyes", role=Role.OPERATOR)
        with served(control_plane) as url:
            context = browser.new_context(http_credentials={"username": "any", "password": key})
            page = context.new_page()
            refused: list[str] = []
            asked: set[str] = set()
            page.on("console", lambda said: refused.append(said.text) if "Content Security" in said.text else None)
            page.on("request", lambda request: asked.add(request.url))
            page.goto(f"{url}/dashboard/#/jobs")
            page.get_by_text("a job to be seen").first.wait_for(timeout=120_000)
            page.goto(f"{url}/dashboard/#/actors")
            page.get_by_text("Actors", exact=False).first.wait_for(timeout=60_000)
            assert refused == []
            assert {each for each in asked if not each.startswith(f"{url}/dashboard/")} == set()
            assert context.cookies() == []
            assert head.token not in page.content()
            context.close()
    finally:
        head.stop()


def _submit(jobs: RayJobs) -> None:
    """A new head on a busy machine may take longer to answer than a coordinator waits; that asks again, too."""
    for _ in range(10):
        with suppress(RayUnavailable):
            jobs.submit("job-seen", 1, "a job to be seen")
            return
    raise AssertionError("Ray took no job")
