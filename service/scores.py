"""How scores and gains are told: what a metric is called, means that never mix two metrics, what an interval allows."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from service.wire_gains import Gain, PairedGain

WAYS = {"zero_shot": "zero-shot", "alone": "alone", "all": "all in one"}
"""Baseline -> what it is called."""

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
    return {"mean_average_precision": "mAP", "image_average_precision": "average precision per image"}.get(
        metric, metric
    )


def in_words(score: float, metric: str) -> str:
    """`88.0 %`, and the metric's name behind it where that is not accuracy."""
    return f"{100 * score:.1f} %" + ("" if metric == "accuracy" else f" {title(metric)}")


def points(value: float | None) -> str:
    """A difference in percentage points, signed, with a true minus; what rounds to nothing has no sign."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(low: float, high: float) -> str:
    """`−0.3 to +2.7`, in percentage points."""
    return f"{points(low)} to {points(high)}"


def gain_sentences(gains: Iterable[Gain], *, num_groups: int) -> list[str]:
    """What may be said of the means over tasks, and of a lone task, of a plan of so many groups."""
    gains = list(gains)
    told = []
    for gain in gains:
        alone = not any(g.task is None and (g.against, g.metric) == (gain.against, gain.metric) for g in gains)
        if gain.task is None or alone:
            told.append(gain_sentence(gain, num_groups=num_groups))
    return told


def gain_sentence(gain: Gain, *, num_groups: int) -> str:
    """`Over all in one: +1.2 points ... (95 % interval −0.3 to +2.7): it spans 0, ...`.

    One group and all in one hold the same tasks: what differs is what they share, and no grouping is praised for it.
    """
    of = f"on average over {gain.num_tasks} tasks" if gain.task is None else f"on {gain.task}"
    of += "" if gain.metric == "accuracy" else f", {title(gain.metric)}"
    said = f"Over {WAYS[gain.against]}: {points(gain.mean)} points {of} (95 % interval {interval(gain.low, gain.high)})"
    if gain.spans_zero:
        return f"{said}: it spans 0, so it cannot be told from no gain."
    word = "better" if gain.mean > 0 else "worse"
    if num_groups > 1:
        return f"{said}: the groups are {word}."
    if gain.against == "all":
        return f"{said}: the same tasks are together, and with group and task parts is {word} than one shared set."
    return f"{said}: the one group is {word}."


def gain_words(gain: PairedGain | None) -> str:
    """`+1.2 (−0.3 to +2.7) spans 0`; a dash where nothing could be compared."""
    if gain is None:
        return "-"
    return f"{points(gain.mean)} ({interval(gain.low, gain.high)}){' spans 0' if gain.spans_zero else ''}"


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
