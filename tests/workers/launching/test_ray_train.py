"""The law of data parallelism: ranks change who computes, not what comes out."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from tests.object_stores import SECRET
from tests.ray_told import told_by_ray
from workers.launching.inline import InlineLauncher
from workers.launching.launcher import Launcher, Running
from workers.launching.ray_launcher import RayLauncher
from workers.launching.ray_train import safe_run_name
from workers.launching.work import PassWork
from workers.storage import files_below
from workers.training.results import LEARNED, VALIDATION, GroupResult, ValidationResult

pytestmark = pytest.mark.ray
RUNS = "api/train/v2/runs/v1"
"""The dashboard's page of Ray Train's runs, with their settings."""


def finish(launcher: Launcher, work: PassWork) -> None:
    ends_well(launcher, launcher.start(work))


def ends_well(launcher: Launcher, running: Running) -> None:
    deadline = time.monotonic() + 240
    while (outcome := running.poll().outcome) is None:
        assert time.monotonic() < deadline, "the ranks never ended"
        launcher.wait([running], 0.5)
    assert outcome.kind == "done", outcome.traceback


def run(launcher: Launcher, work: PassWork) -> dict[str, np.ndarray]:
    finish(launcher, work)
    return load_file(work.directories["g1"] / LEARNED)


def test_two_ranks_take_the_step_that_one_process_takes_on_the_same_batch(local_ray, make_pass):
    """Batches of 5 give ranks of 3 and 2 images; the task of 3 images gives 2 and 1.

    One step of plain SGD with a large rate, so that what is compared is the gradient and not the initial values.
    """
    uneven = {"art": 4, "clipart": 1, "photo": 3}
    settings = {"batch_size": 5, "max_steps": 1, "lr": 10.0, "weight_decay": 0.0, "shots": uneven}
    groups = {"g1": ("art", "clipart", "photo")}
    inline = InlineLauncher()
    start = run(inline, make_pass(groups, into="start", **settings | {"lr": 1e-20}))
    alone = run(inline, make_pass(groups, into="one", **settings))
    other = run(inline, make_pass(groups, into="other", **settings | {"batch_size": 2}))
    inline.close()
    launcher = RayLauncher(device="cpu")
    assert launcher.capacity(2) == 1
    work = make_pass(groups, into="two", job="job-ranks", devices=2, **settings)
    together = run(launcher, work)
    launcher.close()
    assert together.keys() == alone.keys()
    for name, tensor in alone.items():
        taken = np.linalg.norm(tensor - start[name])
        assert np.linalg.norm(other[name] - tensor) > 0.01 * taken, f"{name}: another batch must give another step"
        assert np.linalg.norm(together[name] - tensor) <= 1e-5 * taken, name
    result = GroupResult.read(work.directories["g1"])
    assert result is not None
    assert result.steps == 1


def test_ranks_wait_for_their_devices_as_long_as_others_hold_them(local_ray, make_pass):
    class Other:
        """Of somebody else; holds both CPUs."""

    other: Any = ray.remote(Other).options(num_cpus=2).remote()
    ray.get(other.__ray_ready__.remote())
    launcher = RayLauncher(device="cpu")
    running = launcher.start(make_pass({"g1": ("art",)}, job="job-patient", devices=2))
    deadline = time.monotonic() + 25
    while time.monotonic() < deadline:
        launcher.wait([running], 0.5)
        assert (outcome := running.poll().outcome) is None, outcome
    ray.kill(other)
    ends_well(launcher, running)
    launcher.close()


def test_a_trial_on_two_ranks_on_an_object_store_leaves_the_scores_of_one_process_and_tells_no_secret(
    local_ray, make_pass, object_store
):
    place = object_store.place()
    settings = {"batch_size": 4, "max_steps": 2, "validations": 1}
    groups = {"g1": ("art", "photo")}
    inline, launcher = InlineLauncher(), RayLauncher(device="cpu")
    together = make_pass(groups, into="two", job="job-trial", devices=2, **settings)
    works = [
        (inline, replace(make_pass(groups, into="one", **settings), evaluate="validation")),
        (launcher, replace(together, evaluate="validation", directories={"g1": place / "g1"})),
    ]
    left = []
    for each, work in works:
        finish(each, work)
        left.append(ValidationResult.read(work.directories["g1"]))
        each.close()
    alone, ranks = left
    assert alone is not None and ranks is not None
    assert ranks.per_image == alone.per_image and ranks.steps == 2 and ranks.images == 16
    kept = {found.path: (place / found.path).read_bytes() for found in files_below(place)}
    assert list(kept) == [f"g1/{VALIDATION}"]
    told = told_by_ray(RUNS) | kept
    assert b"job-trial" in told[RUNS]
    assert [name for name, content in told.items() if SECRET.encode() in content] == []


@pytest.mark.parametrize(("job", "group"), [("job-7", "g2"), ("job-7", "alone-a/b c")])
def test_run_names_are_plain_folder_names(job, group):
    name = safe_run_name(job, group)
    assert name.startswith("job-7-")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
