"""What the report tells of the plan: the reasons of every task with its two small drawings, and the affinities' grid.

It knows no HTML: a template draws what stands here, so that every name passes the template's escaping.  Lengths are SVG
user units, equal to CSS pixels at full size.  All drawings of a report have one scale, so that tasks can be compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.plan_words import signed
from service.wire_why import Agreement, TaskReason, TaskWhy

MAX_DRAWN = 200
"""Most tasks that get drawings; more would make the report heavy, and their words say the same."""
BAR, GAP, HALF, LABEL = 7.0, 1.5, 13.0, 38.0
SPARK_WIDTH, SPARK_HEIGHT, SPARK_EDGE = 96.0, 30.0, 4.0


@dataclass(frozen=True)
class Bars:
    """The layers' parts of one modality: bars up where they agree, down where they conflict."""

    modality: str
    y: float
    """Of the line that they stand on."""
    agree: str
    """SVG path data."""
    conflict: str


@dataclass(frozen=True)
class Layers:
    """Where a task's agreement sits."""

    bars: tuple[Bars, ...]
    width: float
    height: float
    label: float
    """Room for the modalities' names."""
    title: str
    """Every layer's part."""


@dataclass(frozen=True)
class Spark:
    """A similarity over the snapshots."""

    path: str
    zero: float
    """Height of 0."""
    title: str
    width: float = SPARK_WIDTH
    height: float = SPARK_HEIGHT


@dataclass(frozen=True)
class Reason:
    """One task of the plan."""

    told: TaskReason
    layers: Layers | None
    spark: Spark | None


@dataclass(frozen=True)
class Grid:
    """How every two affinities agree."""

    names: tuple[str, ...]
    pairs: Mapping[tuple[str, str], Agreement]
    """Both ways round."""


def drawn_reasons(reasons: Sequence[TaskReason], order: Sequence[str]) -> list[Reason]:
    """Reasons in this order of tasks, with drawings unless they are too many."""
    by_task = {reason.task: reason for reason in reasons}
    drawn = len(reasons) <= MAX_DRAWN
    whys = [reason.why for reason in reasons if reason.why is not None]
    largest = max((abs(part) for why in whys for part in _parts(why).values()), default=0.0)
    trends = [value for why in whys for value in why.trend]
    low, high = min([0.0, *trends]), max([0.0, *trends])
    return [
        Reason(
            told=by_task[task],
            layers=_layers(why, largest) if drawn and largest else None,
            spark=_spark(why, low, high) if drawn and high > low else None,
        )
        for task in order
        if task in by_task
        for why in [by_task[task].why]
    ]


def least_sure(reasons: Iterable[TaskReason], below: float = 0.2, most: int = 5) -> list[TaskReason]:
    """The tasks that resampled data would most easily move, the least sure first."""
    unsure = [reason for reason in reasons if reason.together_margin is not None and reason.together_margin < below]
    return sorted(unsure, key=lambda reason: reason.together_margin or 0.0)[:most]


def agreement_grid(pairs: Sequence[Agreement]) -> Grid | None:
    """The pairs as a square; None without any."""
    if not pairs:
        return None
    both = {(a, b): pair for pair in pairs for a, b in ((pair.first, pair.second), (pair.second, pair.first))}
    return Grid(tuple(dict.fromkeys(name for pair in both for name in pair)), both)


def _parts(why: TaskWhy) -> dict[str, float]:
    found = {block.block: block.own if why.whom == "its group" else block.other for block in why.blocks}
    return {block: part for block, part in found.items() if part is not None}


def _layers(why: TaskWhy | None, largest: float) -> Layers | None:
    parts = {} if why is None else _parts(why)
    if not parts:
        return None
    rows: dict[str, list[float]] = {}
    for block, part in parts.items():
        rows.setdefault(block.split(".")[0], []).append(part)
    bars = []
    for number, (modality, values) in enumerate(rows.items()):
        y = HALF + 1 + number * (2 * HALF + 3)
        heights = [HALF * value / largest for value in values]
        bars.append(Bars(modality, y, _bar_path(heights, y, sign=1), _bar_path(heights, y, sign=-1)))
    width = LABEL + max(map(len, rows.values())) * (BAR + GAP)
    title = ", ".join(f"{block} {signed(part)}" for block, part in parts.items())
    return Layers(tuple(bars), width, len(bars) * (2 * HALF + 3), LABEL, title)


def _bar_path(heights: Sequence[float], y: float, *, sign: int) -> str:
    """Bars of one sign; what is too small for a bar gets a hairline, so that no layer seems missing."""
    return "".join(
        f"M{LABEL + number * (BAR + GAP):g} {y:g}v{-sign * max(abs(height), 0.6):.1f}h{BAR:g}V{y:g}z"
        for number, height in enumerate(heights)
        if (height < 0) == (sign < 0)
    )


def _spark(why: TaskWhy | None, low: float, high: float) -> Spark | None:
    if why is None or not why.trend:
        return None

    def y_of(value: float) -> float:
        return SPARK_EDGE + (SPARK_HEIGHT - 2 * SPARK_EDGE) * (high - value) / (high - low)

    step = (SPARK_WIDTH - 2 * SPARK_EDGE) / max(len(why.trend) - 1, 1)
    points = [(SPARK_EDGE + i * step, y_of(value)) for i, value in enumerate(why.trend)]
    path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    path += " h0.01" if len(points) == 1 else ""  # with round caps, a point
    return Spark(path, y_of(0.0), f"With {why.whom}: {', '.join(map(signed, why.trend))}")
