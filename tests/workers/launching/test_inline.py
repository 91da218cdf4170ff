"""Laws of running works in this process, which every launcher keeps."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from workers import faults
from workers.failures import FailureClass
from workers.launching.board import GroupBoard, Outcome, Update, progress_line
from workers.launching.inline import InlineLauncher
from workers.launching.launcher import Running
from workers.training.results import GroupResult, Progress


@pytest.fixture
def launcher() -> Iterator[InlineLauncher]:
    launcher = InlineLauncher()
    yield launcher
    launcher.close()


def drain(launcher: InlineLauncher, running: Running) -> tuple[list[Update], Outcome]:
    updates: list[Update] = []
    while True:
        launcher.wait([running], 60)
        updates.append(running.poll())
        if (outcome := updates[-1].outcome) is not None:
            return updates, outcome


def test_a_pass_leaves_a_result_for_each_of_its_groups(launcher, make_pass):
    work = make_pass({"g1": ("art", "clipart"), "g2": ("photo",)})
    updates, outcome = drain(launcher, launcher.start(work))
    assert outcome.kind == "done", outcome.traceback
    for unit in work.groups:
        result = GroupResult.read(work.directories[unit.id])
        assert result is not None
        assert result.steps == 3
    steps = [row.step for update in updates for row in update.progress if row.group == "g2"]
    assert steps == sorted(steps)
    assert steps[-1] == 3
    assert {group for update in updates for group, _ in update.lines} == {"g1", "g2"}


def test_stop_ends_a_work_with_a_checkpoint_and_the_next_start_goes_on_from_it(launcher, make_pass):
    work = make_pass({"g1": ("art",)}, max_steps=300, checkpoint_every=1000)
    running = launcher.start(work)
    while not any(row.step for row in running.poll().progress):
        launcher.wait([running], 0.01)
    running.stop()
    _, outcome = drain(launcher, running)
    assert outcome.kind == "stopped"
    assert GroupResult.read(work.directories["g1"]) is None
    updates, outcome = drain(launcher, launcher.start(work))
    assert outcome.kind == "done", outcome.traceback
    assert next(row.step for update in updates for row in update.progress) > 0


def test_a_work_stopped_before_its_turn_never_begins(launcher, make_pass):
    first = launcher.start(make_pass({"g1": ("art",)}, max_steps=100_000))
    second = launcher.start(make_pass({"g2": ("art",)}, into="second"))
    second.stop()
    first.stop()
    assert drain(launcher, first)[1].kind == "stopped"
    assert drain(launcher, second)[1].kind == "stopped"
    assert not second.work.directories["g2"].exists()


def test_a_task_is_measured_at_the_prompts_of_a_profile(launcher, make_profile):
    profile, measuring = make_profile("job-measure")
    for work in (profile, measuring):
        updates, outcome = drain(launcher, launcher.start(work))
        assert outcome.kind == "done", outcome.traceback
    assert any("snapshot 2/2" in line for update in updates for group, line in update.lines if group == "measure")
    known, late = (np.load(work.directory / "signatures.npz") for work in (profile, measuring))
    assert late["task_names"].tolist() == ["clipart"]
    there = known["gradients"][:, :, 1]
    assert np.abs(late["gradients"][:, :, 0] - there).max() <= 1e-5 * np.abs(there).max()


def test_data_that_changed_since_validation_are_refused_as_the_users_fault(launcher, make_pass):
    work = make_pass({"g1": ("art",)})
    changed = type(work)(**{**vars(work), "fingerprints": {"art": "0" * 64}})
    _, outcome = drain(launcher, launcher.start(changed))
    assert (outcome.kind, outcome.fault) == ("failed", FailureClass.DATA)
    assert "'art'" in outcome.error
    assert "changed since" in outcome.error


def test_more_devices_than_this_process_has_are_refused(launcher):
    with pytest.raises(ValueError, match="devices_per_group=2"):
        launcher.capacity(2)


def test_a_board_hands_out_everything_once_and_in_order():
    board = GroupBoard("g1")
    rows = [Progress("g1", step, 3, {"art": 0.5}, {}, {}, images_per_second=1.0, lr=0.1) for step in range(4)]
    for row in rows[:2]:
        board.report(row)
    assert board.take()[0] == rows[:2]
    board.log("a word")
    board.report(rows[2])
    taken, lines = board.take()
    assert taken == rows[2:3]
    assert [line.split(" ", 2)[2] for line in lines] == ["a word", "step 2/3 | loss art=0.5000 | 1 images/s"]
    assert board.take() == ([], [])
    assert board.latest == rows[2]


def test_a_progress_is_a_line_with_losses_and_validation_scores():
    line = progress_line(Progress("g1", 2, 3, {"art": 0.5}, {"art": 0.75}, {"art": 0.6}, images_per_second=0.0, lr=0.1))
    assert line == "step 2/3 | loss art=0.5000 | val art=75.0%"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("workers.launching.ray_group", ("torch", "pydantic")),
        ("workers.launching.work", ("torch", "ray")),
        ("workers.launching.ray_launcher", ("torch", "scipy")),
        ("service.driver", ("torch", "scipy", "sklearn")),
    ],
)
def test_what_must_start_quickly_imports_no_more_than_it_needs(module, forbidden):
    code = f"import sys, {module}; print([name for name in {forbidden!r} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture
def armed() -> Iterator[Callable[[str], None]]:
    """Makes faults happen in this process until the test is over."""
    yield faults.arm
    faults.arm("")


def test_a_work_that_hangs_falls_silent_and_the_next_runs_beside_it(launcher, make_pass, armed):
    armed("train.step:hang@2")
    hung = launcher.start(make_pass({"g1": ("art",)}))
    next_up = launcher.start(make_pass({"g2": ("art",)}, into="next"))
    seen = 0
    while seen < 1:
        launcher.wait([hung], 0.05)
        seen = max([seen, *(row.step for row in hung.poll().progress)])
    before = hung.silent_seconds
    launcher.wait([hung], 0.2)
    assert hung.silent_seconds > before and next_up.silent_seconds == 0
    hung.abandon()
    _, outcome = drain(launcher, hung)
    assert (outcome.kind, outcome.fault) == ("failed", FailureClass.INFRASTRUCTURE)
    assert drain(launcher, next_up)[1].kind == "done"


def test_a_thread_that_dies_in_a_work_takes_no_other_with_it(launcher, make_pass, armed):
    armed("train.step:crash@2")
    _, outcome = drain(launcher, launcher.start(make_pass({"g1": ("art",)})))
    assert (outcome.kind, outcome.fault) == ("failed", FailureClass.INFRASTRUCTURE)
    assert drain(launcher, launcher.start(make_pass({"g1": ("art",)})))[1].kind == "done"


@pytest.mark.parametrize(
    ("action", "expected", "hits_all"),
    [
        ("memory", FailureClass.OUT_OF_MEMORY, False),
        ("full", FailureClass.STORAGE, True),
        ("io", FailureClass.STORAGE, False),
    ],
)
def test_a_failed_work_says_of_what(launcher, make_pass, armed, action, expected, hits_all):
    armed(f"train.step:{action}")
    _, outcome = drain(launcher, launcher.start(make_pass({"g1": ("art",)})))
    assert (outcome.kind, outcome.fault, outcome.hits_all) == ("failed", expected, hits_all)


def test_a_pass_in_parts_leaves_what_whole_batches_leave(launcher, make_pass):
    for into, parts in (("whole", 1), ("parts", 2)):
        work = replace(make_pass({"g1": ("art", "photo")}, into=into), microbatches=parts)
        assert drain(launcher, launcher.start(work))[1].kind == "done"
        result = GroupResult.read(work.directories["g1"])
        assert result is not None and result.steps == 3 and result.images == 24
