"""Laws of trial records: who is best, what a validation is, and what a trial trains."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.launching.search_config import SearchConfig
from workers.launching.trials import (
    Trial,
    Validations,
    best_of,
    first_telling_validation,
    ranked,
    read_trials,
    trial_passes,
)
from workers.launching.work import SearchWork
from workers.training.results import Progress


def progress(group: str, step: int, scores: dict[str, float], *, num_steps: int = 4, loss: float = 1.0) -> Progress:
    return Progress(
        group=group,
        step=step,
        num_steps=num_steps,
        losses={},
        scores=scores,
        val_losses=dict.fromkeys(scores, loss),
        images_per_second=0.0,
        lr=0.1,
    )


def test_a_trial_that_ended_beats_one_that_was_stopped_and_failures_come_last():
    trials = [
        Trial(0, {}, "stopped", val_score=0.9, val_loss=0.1),
        Trial(1, {}, "done", val_score=0.5, val_loss=0.9),
        Trial(2, {}, "failed", val_score=1.0, val_loss=0.0),
        Trial(3, {}, "done", val_score=0.5, val_loss=0.8),
        Trial(4, {}, "done", val_score=0.4, val_loss=0.2),
        Trial(5, {}, "stopped"),
    ]
    assert [trial.number for trial in ranked(trials, "val_score")] == [3, 1, 4, 0, 2, 5]
    assert [trial.number for trial in ranked(trials, "val_loss")] == [4, 3, 1, 0, 2, 5]
    assert best_of([trials[0], trials[2]], "val_score") == trials[0]
    assert best_of([trials[2], trials[5]], "val_score") is None
    assert best_of([], "val_score") is None


def test_a_record_is_read_as_it_was_written(tmp_path: Path):
    report = {"step": 2, "num_steps": 4, "val_score": 0.5, "val_loss": 1.5, "seconds": 0.25}
    trial = Trial(7, {"training.lr": 0.1, "method.source_shape": [2, 2]}).heard(report)
    trial.write(tmp_path)
    Trial(0, {}, "failed", reason="why").write(tmp_path)
    assert read_trials(tmp_path) == [Trial(0, {}, "failed", reason="why"), trial]
    assert (trial.step, trial.value("val_loss")) == (2, 1.5)
    assert trial.validations == [{"step": 2, "val_score": 0.5, "val_loss": 1.5}]
    assert not trial.has_ended


def test_a_report_is_the_mean_over_all_tasks_once_every_group_was_validated():
    heard = Validations(["g1", "g2"])
    told = [
        heard.hear(found)
        for found in (
            progress("g1", 0, {}),
            progress("g2", 0, {}),
            progress("g1", 3, {"a": 1.0, "b": 0.5}),
            progress("g2", 3, {"c": 0.0}, loss=4.0),
            progress("g1", 4, {"a": 1.0, "b": 0.5}),  # the same validation, told again
            progress("g2", 4, {"c": 0.0}, loss=4.0),
            progress("g1", 4, {"a": 1.0, "b": 1.0}),
            progress("g2", 4, {"c": 0.4}, loss=1.0),
        )
    ]
    assert told[:3] == [None] * 3
    assert told[3] == {"val_score": 0.5, "val_loss": 2.0, "step": 2, "num_steps": 4}
    assert told[4:7] == [None] * 3
    assert told[7] == {"val_score": pytest.approx(0.8), "val_loss": 1.0, "step": 4, "num_steps": 4}
    assert heard.last() is None


def test_the_end_is_told_even_where_the_last_validation_found_nothing_new():
    heard = Validations(["g1"])
    for step in (0, 1, 2):
        heard.hear(progress("g1", step, {}))
    assert heard.hear(progress("g1", 3, {"a": 0.5})) is not None
    assert heard.hear(progress("g1", 4, {"a": 0.5})) is None
    assert heard.hear(progress("g1", 4, {"a": 0.5})) is None
    assert heard.last() == {"val_score": 0.5, "val_loss": 1.0, "step": 4, "num_steps": 4}


def test_a_validation_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"'val_loss': nan.* Lower training.lr"):
        Validations(["g1"]).hear(progress("g1", 4, {"a": 0.5}, loss=float("nan")))


@pytest.fixture
def work(make_pass: Callable[..., Any], tmp_path: Path) -> SearchWork:
    base = make_pass({"g1": ("art",), "g2": ("photo",)}, max_steps=None, epochs=2)
    return SearchWork(
        job="job-7",
        attempt=1,
        backbone=base.backbone,
        tasks=base.tasks,
        groups=base.groups[:1],
        roots=base.roots,
        cache_dir=base.cache_dir,
        search=SearchConfig.model_validate({"space": {"training.batch_size": {"choice": [2]}}}),
        scope="job",
        members={"g1": ("art",), "g2": ("photo",)},
        num_train={"art": 8, "photo": 5, "elsewhere": 21},
        method=base.groups[0].method,
        training=base.training,
        directory=tmp_path,
    )


def test_a_trial_trains_its_groups_under_its_setting_and_looks_at_validation_images_only(
    work: SearchWork, tmp_path: Path
):
    (passed,) = trial_passes(work, 3, {"training.batch_size": 2, "method.num_tokens": 4})
    assert (passed.evaluate, passed.training.batch_size) == ("validation", 2)
    assert passed.training.max_steps == 2 * 11  # the job's longest task, as in training
    assert {unit.id: unit.method.model_dump()["num_tokens"] for unit in passed.groups} == {"g1": 4, "g2": 4}
    assert passed.directories["g2"] == tmp_path / "scratch" / "3" / "g2"
    assert {task.name for task in passed.tasks} == {"art", "photo"}
    big = replace(work, num_train=dict.fromkeys(work.num_train, 5000))
    passes = trial_passes(big, 0, {"training.batch_size": 3000})
    assert [len(found.groups) for found in passes] == [1, 1]
    with pytest.raises(ValueError, match="batch_size"):
        trial_passes(work, 0, {"training.batch_size": 0})


@pytest.mark.parametrize(
    ("epochs", "warmup", "validations", "first"),
    [(5, 0, 5, 1), (5, 1, 5, 2), (10, 1, 5, 1), (2, 1, 5, 3), (1, 1, 5, 1), (5, 4, 2, 2)],
)
def test_schedulers_wait_for_the_first_validation_after_the_warm_up(
    work: SearchWork, epochs: int, warmup: int, validations: int, first: int
):
    training = work.training.model_copy(
        update={"epochs": epochs, "warmup_epochs": warmup, "validations": validations, "batch_size": 4}
    )
    assert first_telling_validation(replace(work, num_train={"art": 8, "photo": 5}, training=training)) == first
