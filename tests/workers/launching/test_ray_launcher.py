"""Laws of running works on a real Ray: names on the dashboard, stop, crash, and one live attempt at a time."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.util.state import list_actors

from workers.failures import FailureClass
from workers.launching.board import Outcome, Update
from workers.launching.launcher import DuplicateAttempt, Running
from workers.launching.ray_group import NAMESPACE, group_actor_name
from workers.launching.ray_launcher import RayLauncher, workers_on_gpus
from workers.training.results import GroupResult

pytestmark = pytest.mark.ray
PATIENCE = 120.0


@pytest.fixture
def launcher(local_ray: None) -> Iterator[RayLauncher]:
    launcher = RayLauncher(device="cpu")
    yield launcher
    launcher.close()


def watch(launcher: RayLauncher, running: Running, until: Callable[[Update], bool]) -> list[Update]:
    """Polls until an update is as wanted; fails loudly where none ever is."""
    deadline = time.monotonic() + PATIENCE
    updates: list[Update] = []
    while time.monotonic() < deadline:
        updates.append(running.poll())
        if until(updates[-1]):
            return updates
        assert updates[-1].outcome is None, updates[-1].outcome
        launcher.wait([running], 0.2)
    raise AssertionError(f"nothing came within {PATIENCE} s: {updates}")


def ended(launcher: RayLauncher, running: Running) -> tuple[list[Update], Outcome]:
    updates = watch(launcher, running, lambda update: update.outcome is not None)
    outcome = updates[-1].outcome
    assert outcome is not None
    return updates, outcome


def test_groups_are_named_actors_and_their_pass_leaves_results(launcher, make_pass):
    work = make_pass({"g1": ("art", "clipart"), "g2": ("photo",)}, job="job-names")
    running = launcher.start(work)
    updates, outcome = ended(launcher, running)
    assert outcome.kind == "done", outcome.traceback
    for unit in work.groups:
        assert GroupResult.read(work.directories[unit.id]) is not None
        state: Any = ray.get(ray.get_actor(group_actor_name("job-names", unit.id), namespace=NAMESPACE).state.remote())
        assert state["latest"]["step"] == 3
    last = {row.group: row.step for update in updates for row in update.progress}
    assert last == {"g1": 3, "g2": 3}
    lines = [line for update in updates for group, line in update.lines if group == "g2"]
    assert any("step 3/3" in line for line in lines)
    here = ray.get_runtime_context().gcs_address  # other Rays may run on this machine
    actors: list[Any] = list_actors(address=here, detail=True)
    shown = {actor.name: actor.repr_name for actor in actors if (actor.name or "").startswith("job-names/")}
    assert shown == {"job-names/g1": "Group(g1: art, clipart)", "job-names/g2": "Group(g2: photo)"}


def test_stop_reaches_a_busy_worker_which_then_serves_the_next_work(launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-stop", max_steps=1_000_000)
    running = launcher.start(work)
    watch(launcher, running, lambda update: any(row.group == "g1" for row in update.progress))
    asked = time.monotonic()
    running.stop()
    _, outcome = ended(launcher, running)
    assert outcome.kind == "stopped"
    assert time.monotonic() - asked < 10
    assert GroupResult.read(work.directories["g1"]) is None
    _, outcome = ended(launcher, launcher.start(make_pass({"g2": ("art",)}, job="job-stop")))
    assert outcome.kind == "done", outcome.traceback


def test_a_task_is_measured_at_the_prompts_of_a_profile(launcher, make_profile):
    profile, measuring = make_profile("job-measure")
    for work in (profile, measuring):
        updates, outcome = ended(launcher, launcher.start(work))
        assert outcome.kind == "done", outcome.traceback
    assert any("snapshot 2/2" in line for update in updates for group, line in update.lines if group == "measure")
    assert np.load(measuring.directory / "signatures.npz")["task_names"].tolist() == ["clipart"]


def test_a_killed_device_worker_is_a_failed_work_and_the_next_gets_a_new_worker(launcher, make_pass):
    running = launcher.start(make_pass({"g1": ("art",)}, job="job-crash", max_steps=1_000_000))
    updates = watch(launcher, running, lambda update: any(row.step for row in update.progress))
    told = [re.search(r"device worker: process (\d+)", line) for update in updates for _, line in update.lines]
    (process,) = [int(found[1]) for found in told if found]
    os.kill(process, signal.SIGKILL)
    _, outcome = ended(launcher, running)
    assert (outcome.kind, outcome.fault) == ("failed", FailureClass.INFRASTRUCTURE)
    _, outcome = ended(launcher, launcher.start(make_pass({"g2": ("art",)}, job="job-crash")))
    assert outcome.kind == "done", outcome.traceback


def test_a_work_whose_worker_finds_no_device_moves_to_one_that_is_free(local_ray, make_pass):
    """Two workers are asked for where one fits: the second work is done by the first worker, after its own."""

    @ray.remote(num_cpus=1)
    class Squatter:
        def sit(self) -> None: ...

    squatter: Any = Squatter.remote()
    ray.get(squatter.sit.remote())
    launcher = RayLauncher(device="cpu")
    works = [make_pass({f"g{n}": ("art",)}, job="job-full", into=f"full-{n}") for n in (1, 2)]
    running = [launcher.start(work) for work in works]
    deadline, outcomes = time.monotonic() + PATIENCE, []
    while running:
        assert time.monotonic() < deadline, "a work waits for a worker that cannot start"
        launcher.wait(running, 0.2)
        for each in list(running):
            if (outcome := each.poll().outcome) is not None:
                running.remove(each)
                outcomes.append(outcome.kind)
    assert outcomes == ["done", "done"]
    launcher.close()
    ray.kill(squatter)


def test_a_second_live_attempt_is_refused_by_name(launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-twice")
    launcher.announce(work.job, 1, work.groups)
    second = RayLauncher(device="cpu")
    with pytest.raises(DuplicateAttempt, match="'job-twice/g1' alive"):
        second.announce(work.job, 2, work.groups)
    second.close()


def test_devices_that_the_cluster_lacks_are_refused_before_anything_starts(launcher):
    with pytest.raises(ValueError, match="devices_per_group=64: the cluster has 2 CPU"):
        launcher.capacity(64)
    with pytest.raises(ValueError, match="device=cuda: the cluster has no GPU"):
        RayLauncher(device="cuda")


@pytest.mark.parametrize(
    ("gpus", "share", "workers"), [(8, 1.0, 8), (8, 0.5, 16), (2, 0.1, 20), (3, 0.6, 3), (1, 1 / 3, 3), (0.5, 1.0, 1)]
)
def test_every_gpu_holds_as_many_whole_workers_as_fit(gpus: float, share: float, workers: int):
    assert workers_on_gpus(gpus, share) == workers


def process_of(updates: list[Update]) -> int:
    told = [re.search(r"device worker: process (\d+)", line) for update in updates for _, line in update.lines]
    return next(int(found[1]) for found in told if found)


def is_there(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_is_stopped_falls_silent_and_is_ended_for_good(launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-hang", max_steps=1_000_000, checkpoint_every=1)
    running = launcher.start(work)
    updates = watch(launcher, running, lambda update: any(row.step > 2 for row in update.progress))
    assert running.silent_seconds < 30
    process = process_of(updates)
    os.kill(process, signal.SIGSTOP)
    watch(launcher, running, lambda update: running.silent_seconds > 2)
    running.abandon()
    _, outcome = ended(launcher, running)
    assert (outcome.kind, outcome.fault) == ("failed", FailureClass.INFRASTRUCTURE)
    again = launcher.start(work)
    updates = watch(launcher, again, lambda update: any(row.step > 2 for row in update.progress))
    assert next(row.step for update in updates for row in update.progress) > 0
    again.stop()
    ended(launcher, again)
    deadline = time.monotonic() + PATIENCE
    while is_there(process):
        assert time.monotonic() < deadline, f"process {process} is still there"
        launcher.wait([again], 0.2)


def test_a_group_whose_actor_dies_gets_another_while_its_work_goes_on(launcher, make_pass):
    running = launcher.start(make_pass({"g1": ("art",)}, job="job-orphan", max_steps=1_000_000))
    watch(launcher, running, lambda update: any(row.step for row in update.progress))
    ray.kill(ray.get_actor(group_actor_name("job-orphan", "g1"), namespace=NAMESPACE))
    updates = watch(launcher, running, lambda update: any("it has a new one" in line for _, line in update.lines))
    assert updates
    watch(launcher, running, lambda update: any(row.step for row in update.progress))
    assert ray.get_actor(group_actor_name("job-orphan", "g1"), namespace=NAMESPACE)
    running.stop()
    _, outcome = ended(launcher, running)
    assert outcome.kind == "stopped"
