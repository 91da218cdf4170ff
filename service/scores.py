"""How scores are told: what a metric is called, and means that never mix two metrics."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

LEGENDS = {
    "accuracy": "Accuracy is the share of images whose likeliest class is the right one.",
    "mean_average_precision": "mAP (mean average precision) ranks all images by each class's score and averages the "
    "precision at every image that has the class, then averages over the classes that any image has.",
    "recall@1": "Recall@1 is the share of images for which one of their own captions comes first among all captions, "
    "and the share of captions for which their own image comes first among all images; the score is the mean of both.",
}
"""Metric -> what it measures, in a sentence."""


class Measured(Protocol):
    """Anything that is measured by a metric."""

    @property
    def metric(self) -> str: ...


Row = TypeVar("Row", bound=Measured)


def title(metric: str) -> str:
    """A metric as tables and sentences call it."""
    return {"mean_average_precision": "mAP"}.get(metric, metric)


def in_words(score: float, metric: str) -> str:
    """`88.0 %`, and the metric's name behind it where that is not accuracy."""
    return f"{100 * score:.1f} %" + ("" if metric == "accuracy" else f" {title(metric)}")


def points(value: float | None) -> str:
    """A difference in percentage points, signed, with a true minus; what rounds to nothing has no sign."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def by_metric(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows that may be averaged together, under their metric, in the order in which metrics come up."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.metric, []).append(row)
    return found


def common_title(rows: Iterable[Measured]) -> str:
    """The metric's title where all rows have one, otherwise `score`."""
    metrics = list(by_metric(rows))
    return title(metrics[0]) if len(metrics) == 1 else "score"
