"""What the groups gained on test images: over every baseline, by task and on average, and told as surely as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.artifacts import JobFiles
from service.gains import ARTIFACT, gains, read_gains
from service.scores import gain_sentence, gain_sentences, gain_words
from service.spec import JobSpec
from service.states import JobState
from service.views import Views
from service.wire_gains import Gain
from workers.training.results import TaskResult

if TYPE_CHECKING:
    from tests.service.conftest import World
else:
    World = object


def result(task: str, rate: float, *, metric: str = "accuracy", num_test: int = 200) -> TaskResult:
    hits = (np.arange(num_test) < rate * num_test).astype(float).tolist()
    return TaskResult(task, "g", metric, rate, {metric: rate}, 0.1, num_test, None, hits)


def of(rates: dict[str, float]) -> dict[str, TaskResult]:
    return {task: result(task, rate) for task, rate in rates.items()}


def test_every_baseline_has_a_mean_and_every_task_its_own_gain() -> None:
    found = gains(of({"a": 0.9, "b": 0.7}), {"alone": of({"a": 0.5, "b": 0.7}), "all": of({"a": 0.9, "b": 0.8})})
    assert [(gain.against, gain.task) for gain in found] == [
        (way, task) for way in ("alone", "all") for task in (None, "a", "b")
    ]
    assert [gain.mean for gain in found] == pytest.approx([0.2, 0.4, 0.0, -0.05, 0.0, -0.1])
    assert [gain.spans_zero for gain in found] == [False, False, True, False, True, False]
    assert all(gain.low <= gain.mean <= gain.high for gain in found)


def test_only_tasks_that_finished_both_ways_are_compared() -> None:
    found = gains(of({"a": 0.9, "b": 0.7}), {"alone": of({"b": 0.5, "c": 0.5}), "zero_shot": {}})
    assert [(gain.against, gain.task, gain.num_tasks) for gain in found] == [("alone", "b", 1)]


def test_metrics_are_never_averaged_together_and_a_metric_over_classes_is_compared_by_image() -> None:
    grouped = {
        task: result(task, 0.8, metric=m) for task, m in {"a": "accuracy", "t": "mean_average_precision"}.items()
    }
    others = {task: result(task, 0.4, metric=row.metric) for task, row in grouped.items()}
    assert [(gain.task, gain.metric) for gain in gains(grouped, {"all": others})] == [
        ("a", "accuracy"),
        ("t", "image_average_precision"),
    ]


def told(mean: float, low: float, high: float, task: str | None = None) -> Gain:
    return Gain(task=task, against="all", metric="accuracy", mean=mean, low=low, high=high, num_tasks=4, num_images=400)


def test_an_interval_that_spans_zero_is_said_to_allow_no_claim() -> None:
    assert gain_words(told(0.012, -0.003, 0.027)) == "+1.2 (−0.3 to +2.7) spans 0"
    assert gain_sentence(told(0.012, -0.003, 0.027), num_groups=2) == (
        "Over all in one: +1.2 points on average over 4 tasks (95 % interval −0.3 to +2.7): "
        "it spans 0, so it cannot be told from no gain."
    )
    assert gain_sentence(told(0.012, 0.003, 0.027), num_groups=2).endswith(
        "(95 % interval +0.3 to +2.7): the groups are better."
    )
    assert gain_sentence(told(-0.012, -0.02, -0.003), num_groups=2).endswith(": the groups are worse.")


def test_one_group_over_all_in_one_is_a_matter_of_sharing_and_not_of_groups() -> None:
    better, worse = (gain_sentence(told(mean, mean, mean), num_groups=1) for mean in (0.1, -0.1))
    assert better.endswith("the same tasks are together, and with group and task parts is better than one shared set.")
    assert worse.endswith("and with group and task parts is worse than one shared set.")
    alone = told(0.1, 0.1, 0.1).model_copy(update={"against": "alone"})
    assert gain_sentence(alone, num_groups=1).endswith(": the one group is better.")
    assert all("the groups" not in said for said in (better, worse))


def test_sentences_are_about_means_and_about_a_task_only_where_there_is_no_mean() -> None:
    assert len(gain_sentences([told(0.1, 0, 0.2), told(0.1, 0, 0.2, task="a")], num_groups=2)) == 1
    assert "on a (95 %" in gain_sentences([told(0.1, 0, 0.2, task="a")], num_groups=2)[0]


def test_a_job_without_the_file_has_no_gains(tmp_path: Path) -> None:
    assert read_gains(JobFiles(tmp_path, "job-1")) == []


def test_a_finished_job_has_its_gains_in_its_results_its_bundle_and_its_report(
    make_world: Callable[..., World], make_spec: Callable[..., JobSpec]
) -> None:
    world = make_world()
    job = world.submit(make_spec(grouping={"num_groups": 2}, baselines=["zero_shot", "all"]))
    assert world.attempt(job) == JobState.SUCCEEDED, world.why(job)
    results = Views(world.store, world.settings).results(job)
    assert {gain.against for gain in results.gains} == {"zero_shot", "all"}
    for row in results.table:
        assert row.grouped is not None and row.all is not None
        gain = next(gain for gain in results.gains if (gain.task, gain.against) == (row.task, "all"))
        assert gain.mean == pytest.approx(row.grouped - row.all)
    files = world.files(job)
    assert files.read_json(f"bundle/{ARTIFACT}") == files.read_json(ARTIFACT)
    assert gain_sentences(results.gains, num_groups=2)[0] in files.read_text("bundle/report.html")
