"""Priorities and quotas, by command and by client, against a real server on loopback."""

import asyncio
import inspect
import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.client import AsyncCohort
from service.client_queue import AsyncQueueCalls, QueueCalls
from service.connection import Connection
from service.roles import Role

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object


def run(live_service: LiveService, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(live_service.home), *arguments])


def good(live_service: LiveService, *arguments: str) -> str:
    result = run(live_service, *arguments)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


@pytest.fixture
def admin(live_service: LiveService) -> str:
    key = live_service.store.create_key("boss", role=Role.ADMIN)
    Connection(url=live_service.url, key=key).write(live_service.home)
    return key


def test_a_tenant_is_limited_told_so_and_set_free(live_service: LiveService, admin: str) -> None:
    live_service.store.set_quota("default", max_running_jobs=0)
    job = live_service.submitted()
    told = json.loads(good(live_service, "quota", "default", "--jobs", "0", "--highest", "7", "--json"))
    assert (told["max_running_jobs"], told["max_devices"], told["max_priority"]) == (0, None, 7)
    rows = good(live_service, "quota")
    assert "Tenant default" in rows and "running jobs" in rows
    assert f"{job} has priority 7." in good(live_service, "priority", job, "7")
    refused = run(live_service, "priority", job, "8")
    assert (refused.exit_code, "may have at most 7" in refused.output) == (1, True)
    shown = good(live_service, "show", job)
    assert "waits for" in shown and "Number 1 in line." in shown
    assert json.loads(good(live_service, "quota", "default", "--lift", "--json"))["max_running_jobs"] is None
    for wrong in (["quota", "--jobs", "1"], ["quota", "--lift"], ["quota", "a", "--lift", "--jobs", "1"]):
        assert run(live_service, *wrong).exit_code == 1


def test_both_clients_can_do_the_same(live_service: LiveService, admin: str) -> None:
    verbs = [name for name in vars(QueueCalls) if not name.startswith("_")]
    assert verbs == [name for name in vars(AsyncQueueCalls) if not name.startswith("_")]
    for verb in verbs:
        assert inspect.signature(getattr(QueueCalls, verb)) == inspect.signature(getattr(AsyncQueueCalls, verb))

    async def use() -> None:
        live_service.store.set_quota("default", max_running_jobs=0)
        job = live_service.submitted()
        async with AsyncCohort(live_service.url, admin) as client:
            assert (await client.set_priority(job, 3)).priority == 3
            assert (await client.set_quota("red", max_devices=4)).max_devices == 4
            assert (await client.quota("red")).max_devices == 4
            assert (await client.delete_quota("red")).max_devices is None
            assert (await client.quota()).tenant == "default"

    asyncio.run(use())
