"""Laws of a search on a real Ray: the better setting wins, a failing trial is told, what ended is kept."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.object_stores import SECRET
from tests.ray_told import session_folder, told_by_ray
from workers.launching.board import Outcome
from workers.launching.launcher import Running
from workers.launching.ray_launcher import RayLauncher
from workers.launching.ray_settings import Settings, draw_settings
from workers.launching.search_config import SearchConfig
from workers.launching.search_space import apply_setting
from workers.launching.trials import SCRATCH, Trial, best_of, read_trials
from workers.launching.work import GroupUnit, SearchWork
from workers.storage import files_below

pytestmark = pytest.mark.ray
PATIENCE = 180.0
TRAIN = {"art": 12, "photo": 12}


@pytest.fixture
def launcher(local_ray: None) -> Iterator[RayLauncher]:
    launcher = RayLauncher(device="cpu")
    yield launcher
    launcher.close()


@pytest.fixture
def make_search(make_pass: Callable[..., Any], tmp_path: Path) -> Callable[..., SearchWork]:
    """`make_search({"training.lr": {...}}, max_steps=6)`: a search over two small tasks in one group."""

    def make(space: dict[str, Any], *, job: str, search: dict[str, Any] | None = None, **training: Any) -> SearchWork:
        one_pass = make_pass({"g1": ("art", "photo")}, job=job, **training)
        return SearchWork(
            job=job,
            attempt=1,
            backbone=one_pass.backbone,
            tasks=one_pass.tasks,
            groups=(GroupUnit("search", "search", ("art", "photo"), one_pass.groups[0].method),),
            roots=one_pass.roots,
            cache_dir=one_pass.cache_dir,
            search=SearchConfig.model_validate({"space": space, "num_trials": 1} | (search or {})),
            scope="job",
            members={"g1": ("art", "photo")},
            num_train=TRAIN,
            method=one_pass.groups[0].method,
            training=one_pass.training,
            directory=tmp_path / "search",
        )

    return make


def ended(
    launcher: RayLauncher, running: Running, until: Callable[[], bool] = lambda: False, hear: Any = None
) -> tuple[Outcome, list[str]]:
    """Waits for the end, asks to stop as soon as `until` holds, and lets `hear` have every line."""
    deadline, lines, outcome = time.monotonic() + PATIENCE, [], None
    while outcome is None:
        assert time.monotonic() < deadline, f"no end within {PATIENCE} s: {lines}"
        launcher.wait([running], 0.2)
        if until():
            running.stop()
        update = running.poll()
        for _, line in update.lines:
            lines.append(line)
            if hear:
                hear(line)
        outcome = update.outcome
    return outcome, lines


def test_the_better_setting_wins_and_a_failing_trial_does_not_sink_the_search(launcher, make_search):
    work = make_search({"training.lr": {"grid": [1e-8, 0.05, 1e15]}}, job="job-lr", max_steps=12, validations=3)
    outcome, _ = ended(launcher, launcher.start(work))
    assert outcome.kind == "done", outcome.traceback
    trials = {trial.setting["training.lr"]: trial for trial in read_trials(work.directory)}
    assert {lr: trial.status for lr, trial in trials.items()} == {1e-8: "done", 0.05: "done", 1e15: "failed"}
    best = best_of(list(trials.values()), "val_loss")
    assert best is not None and best.setting == {"training.lr": 0.05}
    assert [point["step"] for point in best.validations] == [4, 8, 12]
    assert "loss is" in trials[1e15].reason
    assert not (work.directory / SCRATCH).exists()


def test_a_stop_keeps_what_ended_and_the_next_attempt_runs_only_what_is_missing(launcher, make_search):
    space = {"training.max_steps": {"grid": [4, 1000, 6]}}
    work = make_search(space, job="job-again", search={"max_concurrent": 1}, validations=20, checkpoint_every=10_000)

    def is_under_way() -> bool:
        return (work.directory / SCRATCH / "1").exists() or len(read_trials(work.directory)) > 1

    outcome, _ = ended(launcher, launcher.start(work), is_under_way)
    assert outcome.kind == "stopped", outcome
    assert {trial.number: trial.status for trial in read_trials(work.directory)} == {0: "done", 1: "running"}
    kept = (work.directory / "trials" / "0.json").read_bytes()

    outcome, lines = ended(launcher, launcher.start(replace(work, attempt=2)))
    assert outcome.kind == "done", outcome.traceback
    trials = read_trials(work.directory)
    assert [(trial.status, trial.setting["training.max_steps"]) for trial in trials] == [
        ("done", 4),
        ("done", 1000),
        ("done", 6),
    ]
    assert (work.directory / "trials" / "0.json").read_bytes() == kept
    assert not any("trial 0" in line for line in lines)
    assert trials[1].ended_at > trials[0].ended_at


def test_time_that_is_over_stops_the_trials_and_keeps_their_scores(launcher, make_search):
    space = {"training.max_steps": {"grid": [100_000, 200_000]}}
    search = {"max_concurrent": 1, "max_seconds": 30}
    work = make_search(space, job="job-time", search=search, validations=10_000, checkpoint_every=100_000)
    outcome, _ = ended(launcher, launcher.start(work))
    assert outcome.kind == "done", outcome.traceback
    assert outcome.value == {"num_not_run": 1}
    (trial,) = read_trials(work.directory)
    assert (trial.status, trial.reason) == ("stopped", "the search's 30 s were over")
    assert best_of([trial], "val_score") == trial
    assert 0 < trial.step < trial.num_steps


def test_asha_ends_a_trial_that_is_worse_at_its_first_validation(launcher, make_search):
    search = {"scheduler": "asha", "metric": "val_loss", "max_concurrent": 1}
    work = make_search({"training.lr": {"grid": [0.05, 1e-8]}}, job="job-asha", search=search, max_steps=30)
    outcome, _ = ended(launcher, launcher.start(work))
    assert outcome.kind == "done", outcome.traceback
    good, bad = read_trials(work.directory)
    assert (good.status, good.step) == ("done", 30)
    assert (bad.status, bad.step, bad.reason) == ("stopped", 6, "ended by asha at step 6 of 30")
    assert best_of([bad, good], "val_loss") == good


def test_a_trial_whose_process_is_killed_has_failed_and_the_others_go_on(launcher, make_search):
    space = {"training.max_steps": {"grid": [1_000_000, 4]}}
    work = make_search(space, job="job-killed", search={"max_concurrent": 1}, checkpoint_every=1_000_000)
    killed: list[int] = []

    def kill_the_first(line: str) -> None:
        if (found := re.search(r"trial 0: process (\d+)", line)) and not killed:
            killed.append(int(found[1]))
            os.kill(killed[0], signal.SIGKILL)

    outcome, _ = ended(launcher, launcher.start(work), hear=kill_the_first)
    assert outcome.kind == "done", outcome.traceback
    lost, good = read_trials(work.directory)
    assert (lost.status, good.status) == ("failed", "done")
    assert lost.reason.startswith("the process that ran it is gone")


def test_the_same_seed_draws_the_same_settings_within_the_space_and_none_twice(make_search):
    space = {
        "training.lr": {"loguniform": [0.001, 0.1]},
        "training.weight_decay": {"uniform": [0, 0.1]},
        "training.epochs": {"uniform": [1, 3]},
        "method.source_shape": {"choice": [[2, 2], [2, 1]]},
        "training.optimizer": {"grid": ["sgd", "adamw"]},
    }
    work = make_search(space, job="job-drawn", search={"num_trials": 20})
    drawn: list[dict[str, Any]] = draw_settings(work)
    assert len(drawn) == 40
    assert drawn == draw_settings(work)
    assert drawn != draw_settings(replace(work, search=work.search.model_copy(update={"seed": 1})))
    assert all(0.001 <= setting["training.lr"] <= 0.1 for setting in drawn)
    assert {setting["training.epochs"] for setting in drawn} == {1, 2, 3}
    assert {tuple(setting["method.source_shape"]) for setting in drawn} == {(2, 2), (2, 1)}
    assert [setting["training.optimizer"] for setting in drawn] == ["sgd", "adamw"] * 20
    assert all(apply_setting(setting, work.method, work.training) for setting in drawn)
    few: list[dict[str, Any]] = draw_settings(
        make_search({"training.batch_size": {"choice": [4, 8]}}, job="job-few", search={"num_trials": 20})
    )
    assert sorted(setting["training.batch_size"] for setting in few) == [4, 8]


def test_optuna_learns_from_earlier_attempts_and_repeats_none_of_their_settings(make_search):
    pytest.importorskip("optuna")
    search = {"searcher": "optuna", "num_trials": 6, "seed": 3}
    work = make_search({"training.lr": {"loguniform": [0.001, 0.1]}}, job="job-optuna", search=search)

    def proposed(settings: Settings) -> list[dict[str, Any]]:
        return [setting for n in range(9) if isinstance(setting := settings.suggest(f"trial-{n}"), dict)]

    first = proposed(Settings(work, [], lambda: False))
    assert [setting["number"] for setting in first] == [0, 1, 2, 3, 4, 5]
    done = [Trial(n, {"training.lr": first[n]["training.lr"]}, "done", val_score=0.5, val_loss=1.0) for n in range(2)]
    open_one = Trial(2, {"training.lr": first[2]["training.lr"]})
    again = proposed(Settings(work, [*done, open_one], lambda: False))
    assert again[0] == first[2]
    assert [setting["number"] for setting in again] == [2, 3, 4, 5]
    assert not {setting["training.lr"] for setting in again[1:]} & {setting["training.lr"] for setting in first}


def test_a_search_on_an_object_store_leaves_its_records_alone_and_tells_no_secret(launcher, make_search, object_store):
    place = object_store.place()
    work = make_search({"training.lr": {"loguniform": [0.001, 0.1]}}, job="job-names-7", search={"num_trials": 2})
    outcome, _ = ended(launcher, launcher.start(replace(work, directory=place / "search")))
    assert outcome.kind == "done", outcome.traceback
    assert [trial.status for trial in read_trials(place / "search")] == ["done", "done"]
    kept = {found.path: (place / found.path).read_bytes() for found in files_below(place)}
    assert sorted(kept) == ["search/trials/0.json", "search/trials/1.json"]
    trials = session_folder().glob("artifacts/*/job-names-7-search-1/working_dirs/*")
    assert {path.name for path in trials} == {"job-names-7-search-000", "job-names-7-search-001"}
    told = told_by_ray() | kept
    assert [name for name, content in told.items() if SECRET.encode() in content] == []
