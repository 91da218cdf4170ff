"""A plan's similarities as a square of coloured cells, groups outlined on its diagonal.

It knows no HTML: a template draws what stands here, so that every name passes the template's escaping.
Lengths are SVG user units, equal to CSS pixels at full size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from grouping.plan import Plan
from service import wire

MAX_SIDE = 150  # a square of more tasks than this is drawn group by group: a million cells open in no browser
SIDE = 780.0  # of the whole square, as far as cells stay readable

Matrix = list[list[float | None]]


@dataclass(frozen=True)
class Label:
    """The name of a row and of its column."""

    at: float
    text: str
    full: str


@dataclass(frozen=True)
class Cell:
    """One similarity."""

    x: float
    y: float
    sign: str
    """`pos`, `neg`, or `none` where nothing was measured."""
    share: int
    """Of the pole's colour, 0..100; the rest is the neutral middle."""
    text: str
    """The value, where a cell has room for it."""
    together: int
    """Per cent of the resamples in which the two share a group, 0..100; 0 where that is not known."""
    title: str


@dataclass(frozen=True)
class Box:
    """The outline of a group on the diagonal."""

    at: float
    size: float
    group: str


@dataclass(frozen=True)
class HeatMap:
    """The square."""

    cell: float
    margin: float
    """Room for names, above and to the left."""
    side: float
    font: float
    limit: float
    """The similarity that has the full colour of a pole."""
    cells: tuple[Cell, ...]
    labels: tuple[Label, ...]
    boxes: tuple[Box, ...]
    by_group: bool
    """The cells are means over the pairs of two groups."""
    has_together: bool
    """Co-association is known, and can be drawn in place of similarity."""


def shown_order(plan: Plan) -> list[str]:
    """The plan's leaf order with every group kept together, groups by their first leaf."""
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    order = [task for task in plan.order if task in group_of]
    rank = {group: number for number, group in enumerate(dict.fromkeys(group_of[task] for task in order))}
    return sorted(order, key=lambda task: rank[group_of[task]])


def heat_map(plan: Plan, matrices: wire.Similarity | None = None, *, max_side: int = MAX_SIDE) -> HeatMap | None:
    """The plan's similarities as a square, or None if it has none or has more groups than a square can show.

    More tasks than `max_side` are drawn group by group.  `matrices` brings what its review adds: intervals and
    co-association, in the order of the plan's `task_names`.
    """
    group_of = {task: group.id for group in plan.groups for task in group.tasks}
    order = shown_order(plan)
    by_group = len(order) > max_side
    sides = {task: [task] for task in order}
    if by_group:
        sides = {
            group: [task for task in order if group_of[task] == group] for group in map(group_of.__getitem__, order)
        }
    if plan.similarity is None or not sides or len(sides) > max_side:
        return None
    names = list(sides)
    values = _means(plan.similarity, plan.task_names, list(sides.values()))
    # a mean over pairs has no interval: pairs that share a task are not independent
    own = {} if by_group else {"error": plan.standard_error}
    if matrices is not None:
        own |= {"together": matrices.together}
        own |= {} if by_group else {"low": matrices.low, "high": matrices.high}
    extras = {
        name: _means(matrix, plan.task_names, list(sides.values()))
        for name, matrix in own.items()
        if matrix is not None
    }
    others = [abs(value or 0) for i, row in enumerate(values) for j, value in enumerate(row) if i != j]
    limit = max(others, default=0.0) or 1.0
    cell = float(min(52, max(6, SIDE // len(names))))
    font = max(5.0, min(13.0, cell - 1))
    margin = 16 + 0.6 * font * max(len(_short(name)) for name in names)
    cells = tuple(
        Cell(
            x=margin + column * cell,
            y=margin + row * cell,
            sign="none" if value is None else "neg" if value < 0 else "pos",
            share=round(100 * min(1.0, abs(value or 0) / limit)),
            text=_signed(f"{value:.2f}") if value is not None and cell >= 38 else "",
            together=round(100 * (found.get("together") or 0.0)),
            title=_title(names[row], names[column], value, found),
        )
        for row, line in enumerate(values)
        for column, value in enumerate(line)
        for found in [{name: matrix[row][column] for name, matrix in extras.items()}]
    )
    labels = tuple(Label(margin + (i + 0.5) * cell, _short(name), name) for i, name in enumerate(names))
    owners = names if by_group else [group_of[task] for task in order]
    boxes = tuple(
        Box(margin + owners.index(group) * cell, owners.count(group) * cell, group) for group in dict.fromkeys(owners)
    )
    side = margin + len(names) * cell + 2
    return HeatMap(cell, margin, side, font, limit, cells, labels, boxes, by_group, "together" in extras)


def _means(matrix: Matrix, names: list[str], sides: list[list[str]]) -> list[list[float | None]]:
    """Mean of a matrix between the measured tasks of every two sides; a task with itself counts where it is alone."""
    index = {task: number for number, task in enumerate(names)}
    means = []
    for rows in sides:
        means.append([])
        for columns in sides:
            pairs = [(a, b) for a in rows for b in columns if a != b] or [(rows[0], columns[0])]
            found = [matrix[index[a]][index[b]] for a, b in pairs]
            known = [value for value in found if value is not None]
            means[-1].append(sum(known) / len(known) if known else None)
    return means


def _title(row: str, column: str, value: float | None, found: Mapping[str, float | None]) -> str:
    names = row if row == column else f"{row} and {column}"
    if value is None:
        return f"{names}: not measured"
    said = f"{names}: {_signed(f'{value:+.3f}')}"
    if row == column:
        return said
    low, high, error, together = map(found.get, ("low", "high", "error", "together"))
    if error is not None:
        said += f", standard error {error:.3f}"
    if low is not None and high is not None:
        said += f"; 95 % of the resamples {_signed(f'{low:+.2f}')} to {_signed(f'{high:+.2f}')}"
    if together is not None:
        said += f"; together in {100 * together:.0f} % of them"
    return said


def _signed(number: str) -> str:
    """With a true minus; what is written as zero has no sign."""
    return number.lstrip("+-") if not number.strip("+-0.") else number.replace("-", "−")


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
