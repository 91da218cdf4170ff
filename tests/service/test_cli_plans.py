"""Plans through the clients and the command, against a real server on loopback."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from grouping.config import GroupingConfig
from grouping.plan import trivial_plan
from service.cli import app
from service.client import ApiError, AsyncCohort, Cohort
from service.states import JobState
from tests.measured import PLANTED, measured_job

if TYPE_CHECKING:
    from tests.service.conftest import LiveService
else:
    LiveService = object


@pytest.fixture
def job(live_service: LiveService) -> Iterator[str]:
    control_plane = live_service.control_plane
    yield measured_job(control_plane.store, control_plane.settings)
    control_plane.planner.close()


def say(live_service: LiveService, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["--home", str(live_service.home), *arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def finish_reviews(live_service: LiveService) -> None:
    queue = live_service.control_plane.planner._reviews._queue
    assert queue is not None
    queue.submit(lambda: None).result(timeout=120)


def test_a_plan_is_asked_for_shown_compared_and_run(live_service: LiveService, job: str, tmp_path: Path) -> None:
    assert "has no plans yet" in say(live_service, "plans", job)
    told = say(live_service, "replan", job, "--set", "num_groups=2", "--set", "must_link=[[a, c]]")
    assert f"Plan 0 of {job}" in told
    assert "is worked out now" in told
    assert f"cohort rerun {job} 0" in told
    mine = tmp_path / "groups.yaml"
    mine.write_text("g1: [a, c, e, b]\ng2: [d, f]\n")
    assert json.loads(say(live_service, "replan", "last", "--groups", str(mine), "--json"))["origin"] == "edited"
    listed = say(live_service, "plans", job)
    assert "gradients" in listed and "edited" in listed
    assert "b g2 g1 a, c, e d, f" in say(live_service, "compare", job, "0", "1")
    child = json.loads(say(live_service, "rerun", job, "1", "--json"))
    assert (child["parent"], child["parent_plan"]) == (job, 1)
    finish_reviews(live_service)
    shown = say(live_service, "plans", job, "0")
    assert "The groups are firm" in shown
    assert "Second opinion" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Neither --set nor --groups given"),
        (("--set", "num_groups"), "is no setting. Write key=value"),
        (("--set", "num_groups=["), "the value is no YAML"),
        (("--set", "num_grops=3"), "Did you mean 'num_groups'"),
        (("--set", "num_groups=2001-01-01"), "given '2001-01-01'"),
        (("--groups", "gone.yaml"), "gone.yaml"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(
    live_service: LiveService, job: str, arguments: tuple[str, ...], told: str
) -> None:
    assert told in say(live_service, "replan", job, *arguments, code=1)


def test_a_file_without_groups_is_told(live_service: LiveService, job: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("- a\n")
    assert "holds no names and values" in say(live_service, "replan", job, "--groups", str(tmp_path / "g.yaml"), code=1)
    assert "no plan 3" in say(live_service, "compare", job, "3", "4", code=1)


def test_the_clients_ask_for_plans(live_service: LiveService, job: str) -> None:
    with Cohort(live_service.url, live_service.key) as client:
        assert client.plans(job) == []
        assert client.replan(job, {"num_groups": 2}).groups == PLANTED
        edited = client.replan(job, {"max_group_size": 4}, groups={"g1": ["a", "b", "c"], "g2": ["d", "e", "f"]})
        assert (edited.number, edited.settings.max_group_size) == (1, 4)
        assert client.compare(job, 0, 1).moved
        assert client.reviewed_plan(job, 0).plan["num_groups"] == 2
        child = client.rerun(job, 0, idempotency_key="k")
        assert client.rerun(job, 0, idempotency_key="k").id == child.id
        with pytest.raises(ApiError, match="no plan 9"):
            client.rerun(job, 9)


def test_the_async_client_asks_for_plans(live_service: LiveService, job: str) -> None:
    async def story() -> None:
        async with AsyncCohort(live_service.url, live_service.key) as client:
            assert (await client.replan(job, {})).number == 0
            assert [plan.number for plan in await client.plans(job)] == [0]
            assert (await client.reviewed_plan(job, 0)).groups == PLANTED
            assert (await client.compare(job, 0, 0)).moved == []
            assert (await client.rerun(job, 0)).parent == job

    asyncio.run(story())


def test_a_waiting_job_trains_the_plan_that_a_person_chose(live_service: LiveService) -> None:
    control_plane = live_service.control_plane
    job = measured_job(control_plane.store, control_plane.settings, JobState.AWAITING_APPROVAL)
    for count in ("1", "2"):
        say(live_service, "replan", job, "--set", f"num_groups={count}")
    control_plane.planner.close()
    assert say(live_service, "approve", job, "0") == f"Plan 0 of {job} is approved."
    assert "0 *" in say(live_service, "plans", job)
    assert "no plan 9; it has '0', '1'" in say(live_service, "approve", job, "9", code=1)
    assert [plan.approved for plan in live_service.store.plans(job)] == [True, False]


def test_what_a_job_does_with_its_plan_is_no_change_of_the_plan(live_service: LiveService) -> None:
    control_plane = live_service.control_plane
    grouping = {"num_groups": 2, "approve": True}
    job = measured_job(control_plane.store, control_plane.settings, JobState.AWAITING_APPROVAL, grouping=grouping)
    own = trivial_plan(["a", "b", "c", "d", "e", "f"], "all").outline()
    own = own.model_copy(update={"settings": GroupingConfig.model_validate(grouping)})
    control_plane.store.add_plan(job, own, lambda number: None)
    say(live_service, "replan", job, "--set", "num_groups=3")
    control_plane.planner.close()
    assert not control_plane.store.plans(job)[1].outline.settings.approve
    listed = say(live_service, "plans", job)
    assert "num_groups=3" in listed
    assert "approve=" not in listed


def test_a_clone_takes_settings_one_by_one(live_service: LiveService, job: str) -> None:
    said = say(live_service, "clone", job, "--set", "training.lr=0.01", "--set", "name=again", "--json")
    spec = json.loads(said)["spec"]
    assert (spec["training"]["lr"], spec["name"]) == (0.01, "again")
    assert "which has no parts" in say(live_service, "clone", job, "--set", "name=a", "--set", "name.x=1", code=1)
