"""Laws of a service on a cluster of several machines, each a raylet of its own: who runs where, and what happens when a
machine is lost, joins, or does not see the storage.
"""

import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service.cluster_check import look_now
from service.settings import Settings
from service.states import JobState
from tests.chaos import jobs
from tests.chaos.cluster import RayCluster, clustered
from tests.chaos.service import ROOT, Service, serving, wait_until

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]
SECONDS = 400.0
KINDS = ("JobSupervisor", "Group")
STEPS, CHECKPOINT = 300, 10
LONG = 5000
"""Steps of a job that nobody waits for the end of."""


@dataclass
class World:
    """A head and a machine with GPUs, on which nothing is to run; one for drivers; two that compute."""

    cluster: RayCluster
    service: Service

    def submit(self, spec: dict[str, Any]) -> str:
        spec["resources"] = spec.get("resources", {}) | {"device": "cpu"}
        return self.service.client.submit(spec).id

    def nodes(self) -> dict[str, dict[str, float]]:
        """Machine -> what it offers, of those that live."""
        return {
            node["node_id"]: node["resources_total"]
            for node in self.service.ray_state("nodes")
            if node["state"] == "ALIVE"
        }

    def actors(self) -> list[dict[str, Any]]:
        return [each for each in self.service.ray_state("actors") if each["state"] == "ALIVE"]

    def nodes_of(self, kind: str) -> list[str]:
        """Where actors of that class are."""
        return [each["node_id"] for each in self.actors() if kind in each["class_name"]]

    def trains(self, job: str, least: int = 2 * CHECKPOINT) -> bool:
        """Whether all its groups have taken so many steps.  It must not have ended."""
        assert not self.service.client.job(job).is_finished, self.service.client.job(job).reason
        steps = self.steps(job).values()
        return bool(steps) and all(step >= least for step in steps)

    def steps(self, job: str) -> dict[str, int]:
        """Group of its plan -> steps taken."""
        return {group.id: group.step for group in self.service.client.groups(job).groups if group.kind == "plan"}

    def succeeds(self, job: str) -> None:
        wait_until(lambda: self.service.client.job(job).is_finished, seconds=SECONDS, what=f"{job} ends")
        ended = self.service.client.job(job)
        assert ended.state == JobState.SUCCEEDED, ended.reason

    def computing(self) -> set[str]:
        return {node for node, offers in self.nodes().items() if offers.get("CPU")}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        with clustered(home) as cluster:
            cluster.tell('add {"num_cpus": 0, "resources": {"cohort_driver": 4}}')
            settings = {"driver_resources": '{"cohort_driver": 1}', "poll_seconds": "0.2", "backoff_seconds": "1"}
            with serving(home, settings | cluster.settings) as service:
                yield World(cluster, service)


@dataclass
class Story:
    """What was seen of a job of two groups while it trained, and after one of its machines was lost; it is over."""

    nodes: dict[str, dict[str, float]]
    actors: list[dict[str, Any]]
    lost: str
    joined: set[str]
    workers_after: set[str]


@pytest.fixture(scope="module")
def story(world: World) -> Story:
    wait_until(lambda: len(world.computing()) == 2, seconds=SECONDS, what="two machines compute")
    job = world.submit(jobs.two_groups(max_steps=LONG))
    wait_until(lambda: world.service.client.job(job).attempt, seconds=SECONDS, what="the cluster passes the look")
    world.cluster.tell('add {"num_cpus": 0, "num_gpus": 2}')
    wait_until(lambda: world.trains(job, least=CHECKPOINT), seconds=SECONDS, what="both groups train")
    nodes, actors = world.nodes(), world.actors()
    world.cluster.tell("add")
    lost = world.nodes_of("DeviceWorker")[0]
    joined = world.nodes().keys() - nodes.keys()
    began = time.monotonic()
    world.cluster.tell(f"lose {lost}")
    wait_until(
        lambda: joined & set(world.nodes_of("DeviceWorker")), seconds=SECONDS, what="the machine that joined is used"
    )
    log.info("%.1f s from the loss of a machine until another one is there", time.monotonic() - began)
    steps = world.steps(job)
    wait_until(
        lambda: all(step > steps[group] for group, step in world.steps(job).items()),
        seconds=SECONDS,
        what="both groups train on",
    )
    log.info("%.1f s from the loss of a machine until all groups train on", time.monotonic() - began)
    for event in world.service.client.events(job):
        log.info("%s %s: %s", event.created_at, event.kind, event.message)
    after = set(world.nodes_of("DeviceWorker"))
    world.service.client.cancel(job)
    wait_until(lambda: world.service.client.job(job).is_finished, seconds=SECONDS, what="it is over")
    return Story(nodes, actors, lost, set(joined), after)


def test_groups_spread_over_the_machines(story: Story) -> None:
    used = [each["node_id"] for each in story.actors if each["class_name"] == "DeviceWorker"]
    assert len(used) == len(set(used)) == 2
    assert all(story.nodes[node].get("CPU") for node in used)


def test_drivers_start_where_they_belong_and_what_stands_for_groups_is_beside_its_driver(story: Story) -> None:
    (belong,) = (node for node, offers in story.nodes.items() if offers.get("cohort_driver"))
    nodes = {kind: [each["node_id"] for each in story.actors if each["class_name"] == kind] for kind in KINDS}
    assert nodes["JobSupervisor"] == [belong]
    assert len(nodes["Group"]) > 1
    assert len(set(nodes["Group"])) == 1, "the raylet of the driver; of several on one address Ray takes any"
    assert any(offers.get("GPU") for offers in story.nodes.values()), "a machine with GPUs was there to be chosen"


def test_a_job_outlives_a_machine_and_goes_on_where_one_joined(story: Story) -> None:
    assert story.lost not in story.workers_after
    assert story.joined and story.joined & story.workers_after


def test_ranks_go_on_from_their_last_checkpoint_after_a_machine_is_lost(world: World, story: Story) -> None:
    world.cluster.tell("add")  # so that there is one to go on at: a busy machine is slow to join
    job = world.submit(jobs.two_ranks(max_steps=STEPS))
    wait_until(lambda: world.trains(job), seconds=SECONDS, what="the ranks train")
    world.cluster.tell(f"lose {world.nodes_of('RayTrainWorker')[0]}")
    world.succeeds(job)
    assert "group_retried" in {event.kind for event in world.service.client.events(job)}
    (group,) = world.steps(job)
    steps = [int(step) for step in re.findall(rf"step (\d+)/{STEPS}", world.service.client.log(job, group)[0])]
    begun_again = [after for before, after in pairwise(steps) if after < before]
    assert steps[-1] == STEPS and steps.count(steps[0]) == 1, "nothing was trained anew from the start"
    assert all(step >= CHECKPOINT and step % CHECKPOINT in (0, 1) for step in begun_again), begun_again


def test_a_machine_that_does_not_see_the_storage_is_named_and_the_job_ends_well_without_it(
    world: World, story: Story
) -> None:
    enter = ["unshare", "--mount", "--uts"]
    if subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("no machine with other mounts can be played here: unshare is not allowed")
    storage = world.service.home / "storage"
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={world.cluster.gcs_address}"]
    join += ["--block", "--num-cpus=2", "--num-gpus=0", "--object-store-memory=150000000"]
    script = 'mount -t tmpfs none "$0" && hostname blind && exec "$@"'
    command = [*enter, "sh", "-c", script, str(storage), *join]
    wait_until(lambda: story.lost not in world.nodes(), seconds=SECONDS, what="Ray knows that the machine is lost")
    sound = world.computing()
    quiet = subprocess.DEVNULL
    blind = subprocess.Popen(command, env=world.cluster.environment, cwd=ROOT, stdout=quiet, stderr=quiet)
    try:
        wait_until(lambda: world.computing() - sound, seconds=SECONDS, what="the blind machine joins")
        settings = Settings.load(home=world.service.home, **world.cluster.settings)
        wrong = look_now(world.service.ray_jobs(), settings).wrong
        assert {finding.found for finding in wrong} == {
            f"{storage} is not mounted there (No such file or directory: .cohort-storage)",
            "Ray offers 2 GPUs there, and PyTorch finds 0",
        }
        assert sum(finding.subject.startswith("node blind (") for finding in wrong) == 1
        for node in sound:
            world.cluster.tell(f"lose {node}")
        wait_until(lambda: not sound & world.computing(), seconds=SECONDS, what="Ray knows that they are lost")
        job = world.submit(jobs.tiny("blind"))

        def told() -> list[str]:
            return [e.message for e in world.service.client.events(job) if "on the machine blind" in e.message]

        (said, *_) = wait_until(told, seconds=SECONDS, what="the job tells of the blind machine")
        assert f"The storage {storage} is missing on the machine blind. Mount it there" in said
        world.service.client.pause(job)  # while its operator puts that right
        world.cluster.tell("add")
        blind.terminate()
        blind.wait(timeout=60)
        world.service.client.resume(job)
        world.succeeds(job)
    finally:
        if blind.poll() is None:
            blind.kill()
            blind.wait()
