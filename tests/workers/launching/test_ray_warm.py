"""Laws of warm workers on a real Ray: whom they serve, to whom they give way, and that none outlives its use."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import list_named_actors

from workers.failures import FailureClass
from workers.launching.board import Outcome, Update
from workers.launching.ray_launcher import RayLauncher
from workers.launching.ray_warm import Warmth, claim_on, end_free, end_orphans
from workers.launching.work import PassWork

pytestmark = pytest.mark.ray
PATIENCE = 400.0
ENDLESS = 1_000_000
DRIVER = """
import pickle, sys
from workers.launching.ray_launcher import RayLauncher
address, path = sys.argv[1:]
work, warmth = pickle.loads(open(path, "rb").read())
launcher = RayLauncher(device="cpu", max_device_workers=1, warmth=warmth, address=address)
running = launcher.start(work)
while True:
    update = running.poll()
    for _, line in update.lines:
        print(line, flush=True)
    launcher.wait([running], 0.1)
"""


def eventually(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.1)
    return found


def workers() -> list[str]:
    return [name for name in list_named_actors() if name.startswith("worker/")]


@pytest.fixture(autouse=True)
def none_is_left(local_ray: None) -> Iterator[None]:
    yield
    end_orphans()
    end_free()
    eventually(lambda: not workers(), "all warm workers have ended")


@pytest.fixture
def open_launcher(local_ray: None) -> Iterator[Callable[..., RayLauncher]]:
    """`open_launcher(work, tenant="a")`: a driver's launcher, for jobs with the backbone of that work."""
    opened: list[RayLauncher] = []

    def open_(work: PassWork, *, tenant: str = "a", seconds: float = 600.0, **more: Any) -> RayLauncher:
        warmth = Warmth("a service", tenant, work.backbone, seconds)
        launcher = RayLauncher(device="cpu", warmth=warmth, **{"max_device_workers": 1, **more})
        opened.append(launcher)
        return launcher

    yield open_
    for launcher in opened:
        launcher.close()


def ended(launcher: RayLauncher, work: PassWork) -> tuple[str, Outcome]:
    """What it told, and how it ended."""
    running, lines = launcher.start(work), list[str]()

    def outcome() -> Outcome | None:
        launcher.wait([running], 0.2)
        update: Update = running.poll()
        lines.extend(line for _, line in update.lines)
        return update.outcome

    found = eventually(outcome, "the work ends")
    return "\n".join(lines), found


def process(told: str) -> int:
    found = re.search(r"device worker: process (\d+)", told)
    assert found is not None, told
    return int(found[1])


def is_there(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_next_job_of_a_tenant_finds_the_process_and_the_backbone_of_the_one_before(open_launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-first")
    first = open_launcher(work)
    told, outcome = ended(first, work)
    assert outcome.kind == "done", outcome.traceback
    assert "loaded" in told
    first.close()
    again, outcome = ended(open_launcher(work), make_pass({"g1": ("art",)}, job="job-second", into="second"))
    assert outcome.kind == "done", outcome.traceback
    assert process(again) == process(told)
    assert "loaded" not in again


def test_weights_that_were_exchanged_in_their_folder_are_loaded_anew(open_launcher, make_pass, tiny_clip_dir):
    work = make_pass({"g1": ("art",)}, job="job-weights")
    first = open_launcher(work)
    told, _ = ended(first, work)
    first.close()
    weights = next(tiny_clip_dir.glob("*.safetensors"))
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    again, _ = ended(open_launcher(work), make_pass({"g1": ("art",)}, job="job-weights-2", into="second"))
    assert process(again) == process(told)
    assert "loaded" in again


def test_free_workers_of_others_give_way_and_serve_nobody_else(open_launcher, make_pass):
    """The cluster has two CPUs, and both are held by what is free."""
    work = make_pass({"g1": ("art",)}, job="job-a")
    holders = [open_launcher(work), open_launcher(work)]
    ended(holders[0], work)
    ended(holders[1], make_pass({"g1": ("art",)}, job="job-a2", into="a2"))
    for holder in holders:
        holder.close()
    assert len(workers()) == 2
    other = open_launcher(work, tenant="b", max_device_workers=2)
    told, outcome = ended(other, make_pass({"g1": ("art",)}, job="job-b", into="b"))
    assert outcome.kind == "done", outcome.traceback
    assert "loaded" in told
    eventually(lambda: all("/b-" in name for name in workers()), "the workers of a are gone")


def test_a_tenant_with_a_limit_on_devices_holds_no_more_than_its_jobs_do(open_launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-one")
    first = open_launcher(work, devices=1)
    ended(first, work)
    first.close()
    (before,) = workers()
    half = work.backbone.model_copy(update={"precision": "bf16"})
    second = type(work)(**{**vars(work), "job": "job-two", "backbone": half})
    ended(open_launcher(second, devices=1), second)
    eventually(lambda: before not in workers(), "the free worker has ended")
    assert len(workers()) == 1


def test_a_worker_ends_once_it_was_free_for_its_time(open_launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-idle")
    launcher = open_launcher(work, seconds=0.5)
    told, _ = ended(launcher, work)
    time.sleep(2.0)  # it is held, and does not end however long that lasts
    assert is_there(process(told))
    launcher.close()
    eventually(lambda: not workers() and not is_there(process(told)), "the worker has ended")


def test_a_free_worker_that_does_not_answer_is_ended_and_no_work_is_lost_to_it(open_launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-mute")
    first = open_launcher(work)
    told, _ = ended(first, work)
    first.close()
    os.kill(process(told), signal.SIGSTOP)
    again, outcome = ended(open_launcher(work), make_pass({"g1": ("art",)}, job="job-after-mute", into="second"))
    assert outcome.kind == "done", outcome.traceback
    assert process(again) != process(told)
    eventually(lambda: not is_there(process(told)), "the worker has ended")


def test_a_worker_that_ran_out_of_memory_serves_nobody_again(open_launcher, make_pass, tmp_path):
    work = make_pass({"g1": ("art",)}, job="job-memory")
    spoilt = type(work)(**{**vars(work), "faults": "train.step:memory", "faults_ledger": tmp_path / "ledger"})
    launcher = open_launcher(work)
    told, outcome = ended(launcher, spoilt)
    assert outcome.fault is FailureClass.OUT_OF_MEMORY, outcome
    launcher.close()
    eventually(lambda: not workers() and not is_there(process(told)), "the worker has ended")


@pytest.mark.parametrize("blow", [None, signal.SIGSTOP], ids=["computes", "hangs"])
def test_a_worker_whose_driver_died_ends_though_it_computes_or_hangs(blow, make_pass, open_launcher, tmp_path):
    """One that computes sees to it itself; one that hangs is ended by the driver that looks next."""
    work = make_pass({"g1": ("art",)}, job="job-dead", max_steps=ENDLESS)
    path = tmp_path / "work"
    path.write_bytes(pickle.dumps((work, Warmth("a service", "a", work.backbone, 600.0))))
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, address, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        lines = [next(driver.stdout)]
        while "step" not in lines[-1]:
            lines.append(next(driver.stdout))
    finally:
        pid = process("".join(lines))
        if blow is not None:
            os.kill(pid, blow)
        driver.kill()
        driver.communicate()
    if blow is not None:
        eventually(lambda: end_orphans() or not workers(), "the next driver has ended it")
    eventually(lambda: not workers() and not is_there(pid), "the worker has ended")
    _, outcome = ended(open_launcher(work), make_pass({"g1": ("art",)}, job="job-dead", into="after"))
    assert outcome.kind == "done", outcome.traceback


def test_an_order_of_a_driver_that_holds_the_worker_no_more_is_refused(open_launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-late")
    launcher = open_launcher(work)
    ended(launcher, work)
    (name,) = workers()
    held = claim_on(name)
    launcher.close()
    ended(open_launcher(work), make_pass({"g1": ("art",)}, job="job-other", into="other"))
    worker: Any = ray.get_actor(name)
    outcome: Any = ray.get(worker.run.remote("late", work, {}, held))
    assert (outcome.kind, outcome.fault) == ("failed", FailureClass.INFRASTRUCTURE)
