"""Priorities and quotas, by command and by client, against a real server on loopback."""

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from typer.testing import Result

from service.client import AsyncCohort
from service.client_queue import AsyncQueueCalls, QueueCalls

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object

Run = Callable[..., Result]
Good = Callable[..., str]


def test_a_tenant_is_limited_told_so_and_set_free(live_service: LiveService, admin: str, run: Run, good: Good) -> None:
    live_service.store.set_quota("default", max_running_jobs=0)
    job = live_service.submitted()
    told = json.loads(good("quota", "default", "--jobs", "0", "--highest", "7", "--json"))
    assert (told["max_running_jobs"], told["max_devices"], told["max_priority"]) == (0, None, 7)
    rows = good("quota")
    assert "Tenant default" in rows and "running jobs" in rows
    assert f"{job} has priority 7." in good("priority", job, "7")
    refused = run("priority", job, "8")
    assert (refused.exit_code, "may have at most 7" in refused.output) == (1, True)
    shown = good("show", job)
    assert "waits for" in shown and "Number 1 in line." in shown
    assert json.loads(good("quota", "default", "--lift", "--json"))["max_running_jobs"] is None
    for wrong in (["quota", "--jobs", "1"], ["quota", "--lift"], ["quota", "a", "--lift", "--jobs", "1"]):
        assert run(*wrong).exit_code == 1


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
