"""Takes the pictures of Ray's dashboard that the docs show: `python deploy/screenshots.py [SPEC]`.

Starts a service of its own in a temporary folder, submits a job, and looks at the dashboard through the control plane
while the job's groups train.  Needs Chromium and what `make test` installs.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Page, sync_playwright

from service.client import Cohort
from service.connection import Connection
from service.states import TERMINAL, JobState

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "docs" / "screenshots"
WAIT_SECONDS = 900.0
SIZE: Any = {"width": 1440, "height": 1000}
Found = TypeVar("Found")
GROUP = "Group(g"
"""Begins how the actor of a plan's group shows itself."""
BEGUN = "images/s"
"""Stands in a group's log once it trains."""


def main(spec: Path) -> None:
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cohort-pictures-") as folder:
        home, environment = Path(folder, "home"), Path(folder, "venv")
        environment.symlink_to(sys.prefix)  # so that no picture shows where this checkout lies
        command = [str(environment / "bin" / "python"), "-m", "service.cli", "--home", str(home)]
        command += ["up", "--port", "0", "--until-stdin-closes"]
        service = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
        try:
            connection = _until(lambda: Connection.read(home))
            with Cohort(connection.url, connection.key) as client:
                job = client.submit(spec)
                _until(lambda: _trains(client, job.id))
                _take(connection, job.name)
                client.cancel(job.id)
        finally:
            assert service.stdin is not None
            service.stdin.close()
            service.wait()


def _trains(client: Cohort, job: str) -> bool:
    """Whether all groups of the plan have begun."""
    state = client.job(job).state
    if state in TERMINAL:
        raise RuntimeError(f"The job is {state} and trains no more. Take a spec that trains for longer.")
    planned = [group for group in client.groups(job).groups if group.kind == "plan"]
    return state == JobState.TRAINING and bool(planned) and all(group.step > 0 for group in planned)


def _take(connection: Connection, job: str) -> None:
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        credentials: Any = None if connection.key is None else {"username": "any", "password": connection.key}
        page = browser.new_context(http_credentials=credentials, viewport=SIZE).new_page()
        page.set_default_timeout(WAIT_SECONDS * 1000)
        dashboard = f"{connection.url}/dashboard/"
        page.goto(f"{dashboard}#/jobs")
        _shoot(page, job, "ray-jobs")
        page.goto(f"{dashboard}#/actors")
        _shoot(page, GROUP, "ray-actors")
        page.get_by_role("row").filter(has_text=GROUP).get_by_role("link").first.click()
        _shoot(page, BEGUN, "ray-group-log")
        browser.close()


def _shoot(page: Page, text: str, name: str) -> None:
    page.get_by_text(text).first.wait_for()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)  # milliseconds: pictures on the page come last
    page.screenshot(path=PLACE / f"{name}.png")
    print(f"docs/screenshots/{name}.png", flush=True)


def _until(look: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    raise TimeoutError(f"Nothing came within {WAIT_SECONDS:.0f} s.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples" / "demo.yaml")
