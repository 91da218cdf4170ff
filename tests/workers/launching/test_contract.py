"""Laws that every launcher keeps: the one of this process, the one on Ray, and the fake that computes nothing."""

from collections.abc import Iterator

import numpy as np
import pytest

from workers.failures import FailureClass
from workers.launching.board import Outcome, Update
from workers.launching.fake import FakeLauncher
from workers.launching.inline import InlineLauncher
from workers.launching.launcher import Launcher, Running
from workers.launching.work import PassWork
from workers.training.results import GroupResult


@pytest.fixture(params=["fake", "inline", pytest.param("ray", marks=pytest.mark.ray)])
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    match request.param:
        case "fake":
            found: Launcher = FakeLauncher()
        case "inline":
            found = InlineLauncher()
        case _:
            request.getfixturevalue("local_ray")
            from workers.launching.ray_launcher import RayLauncher

            found = RayLauncher(device="cpu")
    yield found
    found.close()


def ended(launcher: Launcher, running: Running) -> tuple[list[Update], Outcome]:
    updates: list[Update] = []
    while True:
        updates.append(running.poll())
        if (outcome := updates[-1].outcome) is not None:
            return updates, outcome
        launcher.wait([running], 60)


def with_steps(work: PassWork, steps: int) -> PassWork:
    """The driver tells every unit how many steps it takes."""
    units = tuple(type(unit)(unit.id, unit.kind, unit.tasks, unit.method, steps) for unit in work.groups)
    return type(work)(**{**vars(work), "groups": units})


def test_a_pass_leaves_a_result_for_each_of_its_groups_and_tells_every_step_in_order(launcher, make_pass):
    work = with_steps(make_pass({"g1": ("art", "clipart"), "g2": ("photo",)}, job="job-contract"), 3)
    updates, outcome = ended(launcher, launcher.start(work))
    assert outcome.kind == "done", outcome.traceback
    for unit in work.groups:
        result = GroupResult.read(work.directories[unit.id])
        assert result is not None
        assert (result.group, result.steps, set(result.results)) == (unit.id, 3, set(unit.tasks))
    for group in ("g1", "g2"):
        steps = [row.step for update in updates for row in update.progress if row.group == group]
        assert steps == sorted(steps) and {1, 2, 3} <= set(steps) and steps[-1] == 3
    assert {group for update in updates for group, _ in update.lines} == {"g1", "g2"}


def test_every_work_tells_what_it_took_of_its_devices_memory(launcher, make_pass):
    _, outcome = ended(launcher, launcher.start(with_steps(make_pass({"g1": ("art",)}, job="job-memory"), 3)))
    memory = outcome.value["memory"]
    assert 0 < memory["weights"] < memory["peak"] <= memory["available"]
    assert launcher.sharers() >= 1


def test_stop_ends_a_work_with_a_checkpoint_from_which_the_next_start_comes_to_the_same(launcher, make_pass):
    settings = {"max_steps": 40, "checkpoint_every": 1000, "job": "job-again"}
    whole = with_steps(make_pass({"g1": ("art",)}, into="whole", **settings), 40)
    assert ended(launcher, launcher.start(whole))[1].kind == "done"
    work = with_steps(make_pass({"g1": ("art",)}, **settings), 40)
    running = launcher.start(work)
    while not any(row.step for row in running.poll().progress):
        launcher.wait([running], 0.01)
    running.stop()
    running.stop()
    _, outcome = ended(launcher, running)
    assert outcome.kind == "stopped"
    assert GroupResult.read(work.directories["g1"]) is None
    updates, outcome = ended(launcher, launcher.start(work))
    assert outcome.kind == "done", outcome.traceback
    assert next(row.step for update in updates for row in update.progress) > 1
    learned = [(each.directories["g1"] / "learned.safetensors").read_bytes() for each in (whole, work)]
    assert learned[0] == learned[1]


def test_a_task_is_measured_at_the_prompts_of_a_profile(launcher, make_profile):
    profile, measuring = make_profile("job-measure-all")
    for work in (profile, measuring):
        updates, outcome = ended(launcher, launcher.start(work))
        assert outcome.kind == "done", outcome.traceback
    assert any("snapshot 2/2" in line for update in updates for group, line in update.lines if group == "measure")
    known, late = (np.load(work.directory / "signatures.npz") for work in (profile, measuring))
    assert set(known) == set(late)
    assert late["task_names"].tolist() == ["clipart"]
    there = known["gradients"][:, :, 1]
    assert np.abs(late["gradients"][:, :, 0] - there).max() <= 1e-5 * np.abs(there).max()


def test_data_that_changed_since_validation_are_refused_as_such(launcher, make_pass):
    work = make_pass({"g1": ("art",)}, job="job-changed")
    changed = type(work)(**{**vars(work), "fingerprints": {"art": "0" * 64}})
    _, outcome = ended(launcher, launcher.start(changed))
    assert (outcome.kind, outcome.fault) == ("failed", FailureClass.DATA)
    assert "'art'" in outcome.error


def test_more_devices_than_there_are_are_refused_in_words(launcher):
    with pytest.raises(ValueError, match="devices_per_group=64"):
        launcher.capacity(64)
