"""Scores are told with their metric, and means never mix two metrics."""

import io
from typing import get_args

import pytest
from rich.console import Console

from service import show, wire
from service.scores import LEGENDS, by_metric, common_title, in_words
from workers.data.config import METRICS, TaskKind


def row(task: str, metric: str, score: float | None = 0.5, **other: float) -> wire.Comparison:
    ways = {"zero_shot": None, "alone": None, "all": None, **other}
    return wire.Comparison(task=task, metric=metric, group="g1", grouped=score, **ways)


def drawn(*rows: wire.Comparison) -> list[list[str]]:
    """The words of every line of the table."""
    console = Console(file=io.StringIO(), width=140)
    console.print(show.results_table(wire.Results(results=[], table=list(rows))))
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip(" ─")]  # type: ignore[attr-defined]


def test_every_task_kind_has_a_metric_and_every_metric_a_legend() -> None:
    assert set(METRICS) == set(get_args(TaskKind))
    assert set(METRICS.values()) == set(LEGENDS)


@pytest.mark.parametrize(
    ("metric", "told"),
    [("accuracy", "87.5 %"), ("mean_average_precision", "87.5 % mAP"), ("recall@1", "87.5 % recall@1")],
)
def test_a_score_is_told_with_its_metric_unless_that_is_accuracy(metric: str, told: str) -> None:
    assert in_words(0.875, metric) == told


def test_rows_are_averaged_under_their_own_metric() -> None:
    rows = [row("a", "recall@1"), row("b", "accuracy"), row("c", "recall@1")]
    assert {metric: [r.task for r in found] for metric, found in by_metric(rows).items()} == {
        "recall@1": ["a", "c"],
        "accuracy": ["b"],
    }
    assert common_title(rows) == "score"
    assert common_title([row("a", "mean_average_precision")]) == "mAP"


def test_a_table_of_one_kind_has_one_mean_and_names_no_metric() -> None:
    lines = drawn(row("a", "accuracy", 0.5), row("b", "accuracy", 1.0))
    assert "metric" not in lines[0]
    assert [line for line in lines if line[0] == "mean"] == [["mean", "-", "-", "-", "75.0"]]


def test_a_table_that_mixes_kinds_has_a_mean_for_each_metric() -> None:
    lines = drawn(row("a", "accuracy", 0.5), row("b", "accuracy", 1.0), row("c", "mean_average_precision", 0.25))
    assert lines[0][:3] == ["task", "group", "metric"]
    means = [line for line in lines if line[0] == "mean"]
    assert means == [["mean", "accuracy", "-", "-", "-", "75.0"], ["mean", "mAP", "-", "-", "-", "25.0"]]


def test_a_mean_needs_a_score_of_every_task() -> None:
    lines = drawn(row("a", "accuracy", 0.5, alone=0.5), row("b", "accuracy", None, alone=0.7))
    assert lines[-1] == ["mean", "-", "60.0", "-", "-"]


def test_the_title_of_the_results_says_what_they_are() -> None:
    assert show.results_title(wire.Results(results=[], table=[row("a", "accuracy")])) == "Test accuracy, %"
    mixed = wire.Results(results=[], table=[row("a", "accuracy"), row("b", "recall@1")])
    assert show.results_title(mixed) == "Test score, %"
