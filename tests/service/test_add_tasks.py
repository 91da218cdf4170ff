"""New tasks through the clients and the command, against a real server on loopback."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.client import ApiError, AsyncCohort, Cohort
from tests.measured import measured_job, train_a_plan

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object

NEW = {"tasks": [{"name": "new", "source": {"kind": "folder", "uri": "a"}}]}


@pytest.fixture
def job(live_service: LiveService) -> str:
    control_plane = live_service.control_plane
    job = measured_job(control_plane.store, control_plane.settings)
    train_a_plan(control_plane.store, control_plane.settings, job)
    return job


def test_the_command_adds_the_tasks_of_a_file(live_service: LiveService, job: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text("tasks:\n  - {name: new, source: {kind: folder, uri: a}}\n")

    def say(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["--home", str(live_service.home), *arguments])
        assert result.exit_code == code, result.output
        return result.output

    child = json.loads(say("add", job, str(file), "--json"))
    assert (child["parent"], child["num_tasks"]) == (job, 7)
    assert f"it goes on from {job}" in " ".join(say("add", job, str(file)).split())
    file.write_text("tasks: []\n")
    assert "at least 1 item" in say("add", job, str(file), code=1)


def test_the_clients_add_tasks(live_service: LiveService, job: str) -> None:
    with Cohort(live_service.url, live_service.key) as client:
        child = client.add_tasks(job, NEW, idempotency_key="k")
        assert client.add_tasks(job, NEW, idempotency_key="k").id == child.id
        assert client.add_tasks(job, NEW).id != child.id
        with pytest.raises(ApiError, match="tasks can join once it is finished"):
            client.add_tasks(child.id, NEW)

    async def story() -> None:
        async with AsyncCohort(live_service.url, live_service.key) as client:
            assert (await client.add_tasks(job, NEW)).parent == job

    asyncio.run(story())
