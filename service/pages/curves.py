"""Losses and scores of a job that may still train, averaged where they are kept: a long job has millions of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select

from service.curves import MAX_POINTS, NUM_COLOURS, Chart, Curve, chart
from service.store import Store
from service.tables import metrics

Quantity = Literal["loss", "val_score"]


@dataclass(frozen=True)
class Charts:
    """What a choice of curves shows."""

    loss: Chart | None
    """Training loss."""
    score: Chart | None
    """Score on validation images."""


def of_groups(store: Store, job_id: str, groups: Sequence[str]) -> Charts:
    """A line a group: the mean over its tasks."""
    return _charts(store, job_id, metrics.c.group, groups, groups=groups)


def of_tasks(store: Store, job_id: str, groups: Sequence[str], tasks: Sequence[str]) -> Charts:
    """A line a task of these groups."""
    return _charts(store, job_id, metrics.c.task, tasks, groups=groups)


def of_one_task(store: Store, job_id: str, task: str, groups: Sequence[str]) -> Charts:
    """A line for every one of these groups that a task trains in: its own, and those of the baselines."""
    return _charts(store, job_id, metrics.c.group, groups, groups=groups, task=task)


def _charts(
    store: Store, job_id: str, by, names: Sequence[str], *, groups: Collection[str], task: str | None = None
) -> Charts:
    def drawn(quantity: Quantity) -> Chart | None:
        found = _curves(store, job_id, quantity, by, groups, task)
        shown = [name for name in names if name in found]
        colours = {name: number for number, name in enumerate(shown[:NUM_COLOURS], start=1)}
        return chart([Curve("", name, quantity, tuple(found[name])) for name in shown], colours)

    return Charts(loss=drawn("loss"), score=drawn("val_score"))


def _curves(
    store: Store, job_id: str, quantity: Quantity, by, groups: Collection[str], task: str | None
) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, value), the means over spans of steps, at most 120."""
    here = (metrics.c.job_id == job_id) & metrics.c.group.in_(groups) & (metrics.c.name == quantity)
    here &= metrics.c.value.is_not(None) & ((metrics.c.task != "") if task is None else (metrics.c.task == task))
    with store.read() as connection:
        last = connection.execute(select(func.max(metrics.c.step)).where(here)).scalar() or 0
        span = metrics.c.step // (1 + last // MAX_POINTS)
        means = select(by, func.avg(metrics.c.step), func.avg(metrics.c.value)).where(here).group_by(by, span)
        rows = connection.execute(means.order_by(by, span)).all()
    found: dict[str, list[tuple[float, float]]] = {}
    for name, step, value in rows:
        found.setdefault(name, []).append((float(step), float(value)))
    return found
