"""Keys, the log and links, by command and by client, against a real server on loopback."""

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx2
import pytest
from typer.testing import Result

from service.client import ApiError, AsyncCohort, Cohort
from service.client_keys import AsyncKeyCalls, KeyCalls
from service.roles import Role

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object

Run = Callable[..., Result]
Good = Callable[..., str]


def test_a_key_is_made_used_replaced_and_revoked(run: Run, good: Good, admin: str) -> None:
    made = json.loads(good("keys", "create", "ci", "--tenant", "red", "--role", "viewer", "--json"))
    assert (made["tenant"], made["role"], made["expires_at"]) == ("red", "viewer", None)
    told = good("--key", made["key"], "whoami")
    assert told == f"ci: viewer of red (key {made['prefix']})\n"
    new = good("keys", "rotate", made["prefix"], "--overlap", "1h").splitlines()
    assert new[0].startswith("cohort_") and new[1] == "viewer of red, for ci. It is not shown again."
    assert "works no more" in good("keys", "revoke", made["prefix"])
    assert run("--key", made["key"], "whoami").exit_code == 1
    listed = good("keys", "ls")
    assert made["prefix"] in listed and new[0].split("_")[1] in listed
    for key in (made["key"], new[0], admin):
        assert key.split("_")[2] not in listed
    log = good("audit", "--json")
    actions = [entry["action"] for entry in json.loads(log)["entries"]]
    assert actions.count("POST /v1/keys") == actions.count("DELETE /v1/keys/{prefix}") == 1
    assert "DELETE /v1/keys/{prefix}" in good("audit", "--limit", "3")


def test_a_key_may_end_by_itself(live_service: LiveService, admin: str, run: Run, good: Good) -> None:
    made = json.loads(good("keys", "create", "short", "--expires", "90d", "--json"))
    with Cohort(live_service.url, admin) as client:
        listed = client.keys()
    key = next(key for key in listed if key.prefix == made["prefix"])
    assert key.expires_at is not None
    assert (key.expires_at - key.created_at).total_seconds() == pytest.approx(90 * 86_400)
    refused = run("keys", "create", "x", "--expires", "soon")
    assert (refused.exit_code, "is no span of time" in refused.output) == (1, True)


def test_who_is_no_admin_is_told_so(run: Run) -> None:
    refused = run("keys", "ls")
    assert (refused.exit_code, "this takes at least admin" in refused.output) == (1, True)


def test_a_link_is_handed_out(live_service: LiveService, good: Good) -> None:
    job = live_service.finish(live_service.submitted())
    url = good("link", "last", "bundle/report.html", "--expires", "5m").strip()
    assert url.startswith(live_service.url) and job not in url
    assert httpx2.get(url).text == "<h1>Report</h1>"
    with Cohort(live_service.url, live_service.key) as client:
        told = client.link(job, "bundle/groups/g1/learned.txt")
        assert httpx2.get(told.url).text == "learned numbers"
        with pytest.raises(ApiError):
            client.link(job, "nothing")


def test_both_clients_can_do_the_same(live_service: LiveService, admin: str) -> None:
    verbs = [name for name in vars(KeyCalls) if not name.startswith("_")]
    assert verbs == [name for name in vars(AsyncKeyCalls) if not name.startswith("_")]
    for verb in verbs:
        assert inspect.signature(getattr(KeyCalls, verb)) == inspect.signature(getattr(AsyncKeyCalls, verb))

    async def use() -> None:
        async with AsyncCohort(live_service.url, admin) as client:
            made = await client.create_key("a", tenant="red")
            new = await client.rotate_key(made.prefix)
            await client.revoke_key(new.prefix)
            assert [key.revoked_at is not None for key in await client.keys()][-2:] == [True, True]
            assert (await client.whoami()).role == Role.ADMIN
            first = await client.audit(limit=1)
            assert first.next is not None
            assert (await client.audit(before=first.next)).entries[0].id < first.entries[0].id
            job = live_service.finish(live_service.submitted())
            told = await client.link(job, "bundle/report.html", expires_in=60)
            assert httpx2.get(told.url).status_code == 200

    asyncio.run(use())
