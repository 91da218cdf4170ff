"""Laws of the look at somebody else's cluster: what is wrong there keeps jobs from it, and the reason says how to mend
it."""

import json
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from service.clock import FakeClock
from service.cluster_check import AGAIN_SECONDS, LOOK_SECONDS, LOOKED_AT, ClusterCheck, look_now
from service.cluster_findings import Look, judge
from service.cluster_look import SAYS, needed
from service.coordinator import Coordinator
from service.errors import RayUnavailable
from service.ray_jobs import FakeRayJobs
from service.settings import Settings
from service.spec import parse_spec
from service.states import JobState
from service.store import Store
from workers.launching.nodes import NodeReport, Question, answer
from workers.storage_mark import MARK, mark_storage

SPEC = parse_spec("{name: office, backbone: {model: demo}, tasks: [{name: a, source: {kind: demo, task: a}}]}")
DATABASE = "postgresql://somewhere/cohort"
CPU, GPU = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}


class FakeCluster:
    """One that answers every look with `said`, unless it is `busy`."""

    address = "http://fake"

    def __init__(self, said: str) -> None:
        self.said = said
        self.life = "session-1"
        self.busy = ""
        self.looks: list[str] = []
        self.stopped: list[str] = []
        self.listed: set[str] = set()

    def session(self) -> str:
        if not self.life:
            raise RayUnavailable("it does not answer")
        return self.life

    def start_look(self, *paths: str) -> str:
        self.looks.append(f"cohort-look-{len(self.looks)}")
        self.listed.add(self.looks[-1])
        return self.looks[-1]

    def status(self, submission: str) -> str | None:
        return (self.busy or "SUCCEEDED") if submission in self.listed else None

    def log(self, submission: str) -> str:
        return self.said

    def stop(self, submission: str) -> bool:
        self.stopped.append(submission)
        return True


class World:
    """A coordinator before a cluster."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.clock = settings, FakeClock()
        self.store = Store("sqlite://", now=self.clock.time)
        self.cluster = FakeCluster(said(settings, report()))
        check = ClusterCheck(self.cluster, settings, self.clock)
        self.coordinator = Coordinator(self.store, FakeRayJobs(), settings, clock=self.clock, check=check)

    def submit(self) -> str:
        return self.store.create_job(SPEC)[0].id

    def tick(self, times: int = 1, seconds: float = 0.0) -> None:
        for _ in range(times):
            self.clock.advance(seconds)
            self.coordinator.tick()

    def waits_for(self, job_id: str) -> str | None:
        job = self.store.get_job(job_id)
        return job.waits_for if job.state == JobState.QUEUED else None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "storage").mkdir()
    mark_storage(tmp_path / "storage")
    return Settings(home=tmp_path, data_roots=[str(tmp_path)], database_url=DATABASE)


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings)


def report(**fields: Any) -> NodeReport:
    """A machine on which all is well but for these."""
    usual: dict[str, Any] = {"id": "f" * 12, "name": "box-1", "ip": "10.0.0.5", "starts_drivers": True}
    usual |= {"resources": CPU, "python": "3.12.1 at /opt/bin/python", "versions": dict(INSTALLED)}
    return NodeReport(**usual | fields)


def said(settings: Settings, *reports: NodeReport, **fields: Any) -> str:
    """What a look writes among other things."""
    told = {"storage": settings.storage, "mark": (settings.storage_place / MARK).read_text(), "database": ""}
    told |= {"nodes": [asdict(each) for each in reports]} | fields
    return f"Runtime env is setting up.\n{SAYS}{json.dumps(told)}\nand more"


def oldest(need: Requirement) -> str:
    """The oldest version that meets it."""
    return next((each.version for each in need.specifier if each.operator == ">="), "1.0")


INSTALLED = {"cohort": "0.1.0"} | {
    need.name: oldest(need) for need in needed(Settings(home=Path("/tmp"), database_url=DATABASE))
}


def test_the_first_job_of_a_cluster_waits_for_a_look_and_the_next_ones_do_not(world: World) -> None:
    first = world.submit()
    world.tick()
    assert world.waits_for(first) == LOOKED_AT
    world.tick()
    second = world.submit()
    world.tick()
    assert [world.store.get_job(job).state for job in (first, second)] == [JobState.STARTING] * 2
    assert len(world.cluster.looks) == 1


def test_a_cluster_is_looked_at_before_anybody_waits(world: World) -> None:
    world.tick(2)
    job = world.submit()
    world.tick()
    assert world.store.get_job(job).state == JobState.STARTING


def test_what_is_wrong_keeps_jobs_back_until_it_is_mended(world: World) -> None:
    good = world.cluster.said
    world.cluster.said = said(world.settings, report(), report(name="box-2", storage="/s is not mounted there"))
    world.tick(2)
    world.tick(5, seconds=AGAIN_SECONDS)
    assert len(world.cluster.looks) == 1, "nobody waits for another look"
    job = world.submit()
    world.tick(3)
    told = world.waits_for(job) or ""
    assert told.startswith("The cluster: node box-2 (10.0.0.5, ffffff): /s is not mounted there. Mount the storage")
    assert "box-1" not in told
    world.cluster.said = good
    world.tick(2, seconds=AGAIN_SECONDS)
    assert world.waits_for(job) is None


def test_another_head_is_looked_at_afresh(world: World) -> None:
    world.tick(2)
    world.cluster.life, world.cluster.busy = "session-2", "RUNNING"
    world.cluster.listed.clear()
    job = world.submit()
    world.tick(2)
    assert world.waits_for(job) == LOOKED_AT
    world.cluster.busy = ""
    world.tick()
    assert world.waits_for(job) is None
    assert len(world.cluster.looks) == 2


def test_a_cluster_that_goes_away_in_the_middle_of_a_look_loses_nothing(world: World) -> None:
    job = world.submit()
    world.tick()
    world.cluster.life = ""
    world.tick()
    assert world.waits_for(job) == "Ray does not answer; no job can start."
    world.cluster.life = "session-2"
    world.tick(2)
    assert world.waits_for(job) is None


def test_a_look_that_does_not_end_is_ended_and_told(world: World) -> None:
    world.cluster.busy = "RUNNING"
    job = world.submit()
    world.tick()
    world.tick(seconds=LOOK_SECONDS + 1)
    assert world.cluster.stopped == world.cluster.looks
    assert "did not end within" in (world.waits_for(job) or "")


def test_drivers_without_a_machine_are_told_which_resource_it_lacks(settings: Settings) -> None:
    world = World(settings.model_copy(update={"driver_resources": {"cohort_driver": 1.0}}))
    world.cluster.busy = "PENDING"
    job = world.submit()
    world.tick()
    world.tick(seconds=LOOK_SECONDS + 1)
    told = world.waits_for(job) or ""
    assert 'no machine has {"cohort_driver": 1.0} to spare' in told and "--resources='{\"cohort_driver\": 100}'" in told


def only(look: Look, verdict: str) -> tuple[str, str]:
    (finding,) = [each for each in look.findings if each.verdict == verdict]
    return f"{finding.subject}: {finding.found}", finding.fix


@pytest.mark.parametrize(
    ("fields", "verdict", "found", "fix"),
    [
        ({"versions": {**INSTALLED, "torch": None}}, "wrong", "torch is missing", "image for all machines, or install"),
        ({"versions": {**INSTALLED, "numpy": "1.26.4"}}, "wrong", "numpy 1.26.4 is not >=2.2", "/opt/bin/python"),
        ({"versions": {**INSTALLED, "cohort": None}}, "wrong", "cohort is missing", "image"),
        ({"error": "No module named 'upath'"}, "wrong", "did not answer: No module named 'upath'", "install Cohort"),
        ({"error": "no answer within 90 s"}, "warning", "no answer within 90 s", "take it out of the cluster"),
        ({"storage": "/s cannot be written there"}, "wrong", "/s cannot be written there", "Mount the storage"),
        ({"cache": "/home cannot be written"}, "wrong", "/home cannot be written", "COHORT_HOME"),
        ({"missing": ("/data",)}, "warning", "there is no /data", "Mount the data there"),
        ({"resources": GPU}, "wrong", "Ray offers 1 GPUs there, and PyTorch finds 0", "--num-gpus=0"),
        ({"resources": {}}, "warning", "no machine of it offers a CPU or a GPU now", "Add one"),
    ],
)
def test_every_fault_of_a_machine_has_its_words_and_its_fix(
    settings: Settings, fields: dict[str, Any], verdict: str, found: str, fix: str
) -> None:
    told = only(judge(said(settings, report(**fields)), settings), verdict)
    assert found in told[0] and fix in told[1]


def test_a_machine_that_nothing_of_ours_runs_on_keeps_no_job_back(settings: Settings) -> None:
    head = report(name="head", starts_drivers=False, resources={}, versions={**INSTALLED, "torch": None})
    assert not judge(said(settings, report(), head), settings).wrong
    elsewhere = settings.model_copy(update={"driver_resources": {"cohort_driver": 1.0}})
    drivers = replace(head, resources={"cohort_driver": 8.0})
    assert judge(said(elsewhere, report(), drivers), elsewhere).wrong, "drivers may start there"


def test_drivers_on_a_machine_with_gpus_are_warned_of_where_there_is_another_one(settings: Settings) -> None:
    gpus = {"resources": GPU, "gpus": (("H200", 150 * 10**9),)}
    alone = judge(said(settings, report(**gpus)), settings)
    assert [finding.verdict for finding in alone.findings] == ["ok"]
    assert "H200 (150 GB)" in alone.findings[0].found
    beside = [report(**gpus), report(name="box-2", starts_drivers=False)]
    told, fix = only(judge(said(settings, *beside), settings), "warning")
    assert "drivers start there, on a machine with GPUs" in told and "COHORT_DRIVER_RESOURCES" in fix
    elsewhere = settings.model_copy(update={"driver_resources": {"cohort_driver": 1.0}})
    assert not [each for each in judge(said(elsewhere, *beside), elsewhere).findings if each.verdict != "ok"]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"storage": "/elsewhere"}, "settings: drivers would write to /elsewhere"),
        ({"mark": ""}, "is not the service's storage on the machine where drivers start"),
        ({"mark": "another"}, "is not the service's storage"),
        ({"database": "no route"}, "database: drivers cannot reach it: no route"),
    ],
)
def test_drivers_that_find_other_things_than_the_service_are_told_so(
    settings: Settings, fields: dict[str, str], found: str
) -> None:
    assert found in only(judge(said(settings, report(), **fields), settings), "wrong")[0]


def test_a_database_in_a_file_is_warned_of_where_drivers_start_elsewhere(settings: Settings) -> None:
    file = settings.model_copy(update={"database_url": "sqlite:///cohort.db"})
    told, fix = only(judge(said(file, report()), file), "warning")
    assert told.startswith("database: ") and "drivers start on box-1" in told and "PostgreSQL" in fix
    here = report(name=socket.gethostname())
    assert not [each for each in judge(said(file, here), file).findings if each.verdict != "ok"]


def test_machines_that_are_not_alike_are_warned_of(settings: Settings) -> None:
    other = report(name="box-2", versions={**INSTALLED, "torch": "2.99.0"})
    assert (
        "torch is not the same everywhere: 2.6, 2.99.0"
        in only(judge(said(settings, report(), other), settings), "warning")[0]
    )


@pytest.mark.parametrize(
    ("log", "fix"),
    [
        ("/opt/bin/python: Error while finding module: No module named 'service'", "COHORT_RAY_PYTHON names (/x)"),
        ("bash: line 1: /opt/bin/python: No such file or directory", "Set COHORT_RAY_PYTHON to the Python"),
        ("ValueError: Settings from COHORT_*: port: not a number.", "drivers of jobs would fail likewise"),
        ("", "drivers of jobs would fail likewise"),
    ],
)
def test_where_no_driver_can_start_the_reason_is_what_ray_said(settings: Settings, log: str, fix: str) -> None:
    cluster = FakeCluster(log)
    look = look_now(cluster, settings.model_copy(update={"ray_python": "/x"}))
    told = only(look, "wrong")
    assert told[0] == f"cluster: no driver can start on it: {log or 'its log is empty'}" and fix in told[1]


def test_this_machine_answers_for_itself(settings: Settings) -> None:
    """What is asked of every machine, asked here, where everything is installed."""
    place = settings.storage_place
    number = (place / MARK).read_text()
    needs = [Requirement("cohort"), *needed(settings)]

    def ask(**fields: Any) -> dict[str, Any]:
        usual: dict[str, Any] = {"distributions": tuple(need.name for need in needs), "storage": str(place)}
        usual |= {"mark": (MARK, number), "cache": str(settings.home / "cache"), "paths": ("/tmp", "/not/there")}
        return answer(Question(**usual | fields), False)

    here = ask()
    assert here["storage"] == here["cache"] == "" and here["missing"] == ("/not/there",) and here["free_bytes"] > 0
    assert {need.name for need in needs if here["versions"][need.name] is None} == set()
    assert "is another folder" in ask(mark=(MARK, "another"))["storage"]
    (place / MARK).unlink()
    assert "is not mounted there (No such file or directory" in ask()["storage"]
    assert ask(mark=None, storage=place)["storage"] == ""
