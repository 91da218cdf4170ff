"""Pictures of a benchmark, as PNG and SVG: scores against trained parameters (as Figure 1 of MmAP's paper, Xin et al.
2024), and scores against shots where there are several.

Methods without parameters are horizontal lines.  Labels are set one after another where they cover no other label and
no point.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from service.benchmark_table import Table, provenance
from service.scores import title

_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#B84A8A",
    "#8C6D1F",
    "#1B8FC9",
    "#7B3FA0",
    "#444444",
    "#B22222",
    "#2F6B2F",
)
_MARKERS = {"alone": "s", "all": "o", "grouped": "^", "grouped+task": "D", "half": "v", None: "P"}
_STYLE: Any = {"font.size": 8, "svg.hashsalt": "cohort", "axes.spines.top": False, "axes.spines.right": False}


def draw(table: Table, folder: Path) -> list[Path]:
    """Writes figure.png and figure.svg, and shots.png and shots.svg where several numbers of shots were measured."""
    shots = sorted({row.shots for row in table.rows if row.shots is not None})
    with rc_context(_STYLE):
        prefix = "" if table.part == "test" else "validation-"
        made = {f"{prefix}figure": against_parameters(table, shots[-1] if shots else None)}
        if len(shots) > 1:
            made[f"{prefix}shots"] = against_shots(table)
        written = []
        for name, figure in made.items():
            for suffix in ("png", "svg"):
                metadata = {"Description": provenance(table)} | ({"Date": None} if suffix == "svg" else {})
                figure.savefig(folder / f"{name}.{suffix}", metadata=metadata, dpi=160)
                written.append(folder / f"{name}.{suffix}")
    return written


def against_parameters(table: Table, shots: int | None) -> Figure:
    """Score against trained parameters, one panel per metric."""
    rows = [row for row in table.rows if row.shots == shots and row.scores]
    figure, panels = _panels(table, "" if shots is None else f", {shots} shots")
    colours = _colours(table)
    for axes, metric in zip(panels, table.metric_names, strict=True):
        axes.set_xscale("log")
        trained = [row.parameters for row in rows if row.parameters] or [1.0]
        room = max(2.0, (max(trained) / min(trained)) ** 0.12)
        axes.set_xlim(min(trained) / room, max(trained) * room)
        axes.set_xlabel("trained parameters, all tasks together")
        labels: list[Annotation] = []
        bars: list[tuple[float, float, float]] = []
        for row in rows:
            spread, colour = row.scores[metric], colours[row.label]
            if not row.parameters:
                axes.axhline(100 * spread.mean, color=colour, linestyle="--", linewidth=1)
                place = (1.0, 100 * spread.mean)
                labels.insert(0, _label(axes, row.name, place, colour, axes.get_yaxis_transform()))
                continue
            point = (row.parameters, 100 * spread.mean)
            axes.errorbar(
                *point,
                yerr=100 * (spread.std or 0),
                color=colour,
                marker=_MARKERS[row.sharing],
                markersize=5,
                capsize=2,
            )
            labels.append(_label(axes, row.name, point, colour, "data"))
            bars.append((*point, 100 * (spread.std or 0)))
        axes.margins(y=0.1)
        _spread_labels(figure, axes, labels, bars)
    return figure


def against_shots(table: Table) -> Figure:
    """Score against the number of shots, one panel per metric and a line per contestant."""
    figure, panels = _panels(table, "")
    colours = _colours(table)
    for axes, metric in zip(panels, table.metric_names, strict=True):
        for name in dict.fromkeys(row.name for row in table.rows):
            rows = [row for row in table.rows if row.name == name and row.scores]
            if rows:
                axes.errorbar(
                    [row.shots or 0 for row in rows],
                    [100 * row.scores[metric].mean for row in rows],
                    yerr=[100 * (row.scores[metric].std or 0) for row in rows],
                    label=name,
                    color=colours[rows[0].label],
                    marker=_MARKERS[rows[0].sharing],
                    markersize=4,
                    capsize=2,
                    linewidth=1.2,
                )
        shots = sorted({row.shots for row in table.rows if row.shots is not None})
        axes.set_xscale("log", base=2)
        axes.set_xticks(shots, [str(number) for number in shots])
        axes.minorticks_off()
        axes.set_xlabel("training images per class")
        legend = axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _panels(table: Table, detail: str) -> tuple[Figure, list[Axes]]:
    count = len(table.metric_names)
    figure = Figure(figsize=(8.0 * count, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes, metric in zip(panels, table.metric_names, strict=True):
        number = sum(own == metric for own in table.metrics.values())
        axes.set_ylabel(f"{table.part} {title(metric)}, %, mean of {number} task(s)")
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.set_axisbelow(True)
    figure.suptitle(
        f"{table.spec.name}: {table.part} scores, mean ± standard deviation over seeds{detail}", fontsize=10
    )
    figure.supxlabel(provenance(table), parse_math=False, fontsize=6, color="#555555", wrap=True)
    return figure, panels


def _colours(table: Table) -> dict[str, str]:
    return dict(zip(dict.fromkeys(row.label for row in table.rows), cycle(_COLOURS), strict=False))


def _label(axes: Axes, text: str, place: tuple[float, float], colour: str, coordinates: Any) -> Annotation:
    label = axes.annotate(
        text,
        place,
        xycoords=coordinates,
        xytext=(0, 0),
        textcoords="offset points",
        color=colour,
        parse_math=False,
        fontsize=7,
        ha="center",
        va="center",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3},
    )
    label.set_in_layout(False)
    return label


def _spread_labels(
    figure: Figure, axes: Axes, labels: Sequence[Annotation], bars: Sequence[tuple[float, float, float]]
) -> None:
    """Moves every label to the nearest place where it covers no line, no point with its error bar (x, y, ± y) and no
    label that was set before it."""
    figure.canvas.draw()
    figure.set_layout_engine("none")  # what was measured now stays
    renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    inside = axes.get_window_extent(renderer)
    dot = figure.dpi / 72
    taken = []
    for x, y, spread in bars:
        (left, low), (_, high) = axes.transData.transform([(x, y - spread), (x, y + spread)])
        taken += [_box(left, (low + high) / 2, 9 * dot, 9 * dot), _box(left, (low + high) / 2, 4 * dot, high - low)]
    lines = [_anchor(axes, label)[1] for label in labels if label.xycoords != "data"]
    taken += [Bbox.from_extents(inside.x0, y - 0.3 * dot, inside.x1, y + 0.3 * dot) for y in lines]
    for label in labels:
        size = Text.get_window_extent(label, renderer)
        x, y = _anchor(axes, label)
        for dx, dy in _offsets(size.width / dot, size.height / dot, on_line=label.xycoords != "data"):
            box = _box(x + dx * dot, y + dy * dot, size.width + 2 * dot, size.height)
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if fits and not any(box.overlaps(other) for other in taken):
                break
        label.set_position((dx, dy))
        if label.xycoords != "data" and label.arrow_patch is not None:
            label.arrow_patch.set_visible(False)
        taken.append(box)


def _offsets(width: float, height: float, *, on_line: bool) -> Iterator[tuple[float, float]]:
    """Where a label's middle may lie, from its point, in typographic points: the nearest places first."""
    if on_line:  # just above or below it, from the right end to the left
        for step in range(100):
            for side in (1, -1):
                yield -width / 2 - 2 - 4 * step, side * (height / 2 + 1)
    for radius in range(5, 160, 4):
        for turn in range(24):
            angle = 2 * math.pi * turn / 24
            yield (radius + width / 2) * math.cos(angle), (radius + height / 2) * math.sin(angle)


def _anchor(axes: Axes, label: Annotation) -> tuple[float, float]:
    """The point that a label belongs to, in pixels."""
    transform = axes.transData if label.xycoords == "data" else axes.get_yaxis_transform()
    x, y = transform.transform(label.xy)
    return float(x), float(y)


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    """Around its middle."""
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
