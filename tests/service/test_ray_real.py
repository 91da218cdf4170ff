"""Ray, the real one: a head of our own outlives its starter, stands beside others and ends without a trace; and the
contract that `RayJobs` and `FakeRayJobs` share."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.errors import RayUnavailable
from service.processes import Process, marked
from service.ray_head import RayHead
from service.ray_jobs import ENDED, DriverJobs, FakeRayJobs, RayJobs
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = (sys.executable, "-c", "import time; print('driver is up', flush=True); time.sleep(600)")
STARTER = f"""
import time
from service.ray_head import RayHead
from service.ray_jobs import RayJobs
from service.settings import Settings
head = RayHead(Settings.load())
head.start(lambda address: RayJobs(address, head.token).alive())
jobs = RayJobs(head.address, head.token, entrypoint={ENTRYPOINT!r})
jobs.submit("job-before", 1, "before")
while jobs.status("job-before-a1") != "RUNNING":
    time.sleep(0.1)
print(head.address, flush=True)
time.sleep(600)
"""


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether it holds within that time; for what another process does."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def jobs_on(head: RayHead) -> RayJobs:
    return RayJobs(head.address, head.token, entrypoint=ENTRYPOINT)


@dataclass
class Survivor:
    """A head whose starter was killed, taken over by this process."""

    head: RayHead
    adopted: bool
    address_before: str


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    home = tmp_path_factory.mktemp("survivor")
    settings = Settings(home=home, num_cpus=1)
    settings.write_running()
    environment = {"COHORT_HOME": str(home), "COHORT_NUM_CPUS": "1", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    starter = subprocess.Popen([sys.executable, "-c", STARTER], env=environment, stdout=subprocess.PIPE, text=True)
    head = RayHead(settings)
    try:
        assert starter.stdout is not None
        address = starter.stdout.readline().strip()
        starter.kill()
        starter.wait()
        starter.stdout.close()
        adopted = head.start(lambda there: RayJobs(there, head.token).alive())
        yield Survivor(head, adopted, address)
    finally:
        if starter.poll() is None:
            starter.kill()
            starter.wait()
        head.stop()


@pytest.fixture(params=["fake", pytest.param("ray", marks=pytest.mark.ray)])
def ray_jobs(request: pytest.FixtureRequest) -> DriverJobs:
    if request.param == "fake":
        return FakeRayJobs()
    return jobs_on(request.getfixturevalue("survivor").head)


def test_an_attempt_is_started_once_and_ends_when_stopped(ray_jobs: DriverJobs) -> None:
    submission = ray_jobs.submit("job-contract", 1, "a name, for people")
    assert submission == "job-contract-a1"
    assert ray_jobs.submit("job-contract", 1, "a name, for people") == submission
    assert eventually(lambda: ray_jobs.status(submission) == "RUNNING")
    assert ray_jobs.unfinished()[submission] == "job-contract"
    assert ray_jobs.stop(submission)
    assert eventually(lambda: ray_jobs.status(submission) == "STOPPED")
    assert submission not in ray_jobs.unfinished()
    assert not ray_jobs.stop(submission)
    assert ray_jobs.submit("job-contract", 1, "a name, for people") == submission
    assert ray_jobs.status(submission) in ENDED


def test_a_job_that_ray_does_not_know_is_none(ray_jobs: DriverJobs) -> None:
    assert ray_jobs.alive()
    assert ray_jobs.status("job-nobody-a1") is None
    assert not ray_jobs.stop("job-nobody-a1")
    assert ray_jobs.log_tail("job-nobody-a1") == ""


@pytest.mark.parametrize("kind", ["fake", "nobody listens"])
def test_a_ray_that_is_away_is_unavailable(kind: str) -> None:
    ray_jobs: DriverJobs = RayJobs("http://127.0.0.1:9", "token")
    if kind == "fake":
        ray_jobs = fake = FakeRayJobs()
        fake.reachable = False
    assert not ray_jobs.alive()
    for ask in (ray_jobs.status, ray_jobs.stop, ray_jobs.log_tail, lambda name: ray_jobs.submit(name, 1, name)):
        with pytest.raises(RayUnavailable, match="does not answer"):
            ask("job-x")


def test_a_fake_driver_that_raises_is_failed_with_its_words() -> None:
    def broken(job_id: str, attempt: int) -> None:
        raise ValueError(f"{job_id} {attempt} broke")

    ray_jobs = FakeRayJobs(broken)
    submission = ray_jobs.submit("job-x", 1, "x")
    assert eventually(lambda: ray_jobs.status(submission) == "FAILED")
    assert "job-x 1 broke" in ray_jobs.log_tail(submission)


@pytest.mark.ray
def test_a_head_and_its_jobs_outlive_a_killed_starter(survivor: Survivor) -> None:
    assert survivor.adopted
    assert survivor.head.address == survivor.address_before
    assert jobs_on(survivor.head).status("job-before-a1") == "RUNNING"
    assert eventually(lambda: "driver is up" in jobs_on(survivor.head).log_tail("job-before-a1"))


@pytest.mark.ray
def test_the_head_asks_for_its_token(survivor: Survivor) -> None:
    assert not RayJobs(survivor.head.address).alive()
    with pytest.raises(RayUnavailable, match="token"):
        RayJobs(survivor.head.address, "guessed").status("job-before-a1")
    token_file = survivor.head.home / "ray_token"
    assert token_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.ray
def test_a_clean_stop_leaves_nothing_and_does_not_touch_the_head_beside_it(survivor: Survivor, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, num_cpus=1)
    settings.write_running()
    beside = RayHead(settings)
    assert not beside.start(lambda there: RayJobs(there, beside.token).alive())
    assert jobs_on(beside).submit("job-before", 1, "the same name") == "job-before-a1"
    assert eventually(lambda: jobs_on(beside).status("job-before-a1") == "RUNNING")
    mark = beside.mark
    processes = marked(mark)
    assert len(processes) > 5
    beside.stop()
    assert not [process for process in processes if process.is_alive()]
    assert not marked(mark)
    assert not beside.temp_dir.exists()
    assert not beside.is_running()
    assert jobs_on(survivor.head).status("job-before-a1") == "RUNNING"


def test_a_process_id_that_is_used_again_is_another_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"COHORT_TEST_MARK": "yes"})
    process = Process.of(child.pid)
    assert process is not None and process.is_alive()
    assert eventually(lambda: process in marked("COHORT_TEST_MARK=yes"))
    assert not marked("COHORT_TEST_MARK=no")
    for less in ("", "COHORT_TEST_MARK", "COHORT_TEST_MARK="):
        with pytest.raises(ValueError, match="expected NAME=value"):
            marked(less)
    assert not Process(child.pid, process.started + 1).is_alive()
    child.communicate(b"\n")
    assert not process.is_alive()
