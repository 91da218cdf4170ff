"""Which groups train in which forward pass, and on which device worker: longest processing time first.

Pure arithmetic over costs; it knows neither devices nor Ray.  Ray has no task priorities, so the order lives here.
LPT stays within 4/3 - 1/(3m) of the shortest makespan (Graham 1969, "Bounds on multiprocessing timing anomalies").
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

MAX_IMAGES_PER_STEP = 4096
"""Images in one forward pass of several groups; a group that alone has more runs by itself."""


class Packable(Protocol):
    """What packing needs to know of a group."""

    @property
    def cost(self) -> float:
        """Expected work: steps x images per step."""
        ...

    @property
    def images_per_step(self) -> int:
        """Images that this group adds to one forward pass."""
        ...


@dataclass(frozen=True)
class Parcel:
    """A named cost: the smallest thing that can be packed."""

    name: str
    cost: float
    images_per_step: int = 1


Unit = TypeVar("Unit", bound=Packable)
Item = TypeVar("Item")


def longest_first(items: Sequence[Item], *, num_bins: int, cost: Callable[[Item], float]) -> list[list[Item]]:
    """Spread items over `num_bins` bins, each next longest into the emptiest bin; ties go to the earlier.

    Empty bins are kept, so the answer always has `num_bins` lists.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins}: at least one bin is needed.")
    bins: list[list[Item]] = [[] for _ in range(num_bins)]
    loads = [(0.0, index) for index in range(num_bins)]
    for item in sorted(items, key=cost, reverse=True):
        load, index = heapq.heappop(loads)
        bins[index].append(item)
        heapq.heappush(loads, (load + cost(item), index))
    return bins


def pack(
    units: Sequence[Unit],
    num_workers: int,
    max_images_per_step: int | None = None,
    fits: Callable[[Sequence[Unit]], bool] = lambda units: True,
) -> list[list[Unit]]:
    """Balanced passes for `num_workers` device workers, the costliest pass first.

    Without a cap there are at most `num_workers` passes: one forward pass per worker serves all of its groups, which
    keeps one backbone in memory and one kernel launch per layer.  A pass whose groups would together exceed
    `max_images_per_step`, or do not fit, is split; a group that does so alone has a pass of its own, since only the
    user's batch size can make it smaller.
    """
    if max_images_per_step is not None and max_images_per_step < 1:
        raise ValueError(f"max_images_per_step={max_images_per_step}: use at least 1, or None for no cap.")
    passes: list[list[Unit]] = []
    for members in longest_first(units, num_bins=num_workers, cost=lambda unit: unit.cost):
        passes += _split(members, max_images_per_step, fits)
    return sorted(passes, key=lambda members: sum(unit.cost for unit in members), reverse=True)


def _split(members: list[Unit], cap: int | None, fits: Callable[[Sequence[Unit]], bool]) -> list[list[Unit]]:
    """First fit, in order of cost."""
    passes: list[list[Unit]] = []
    for unit in members:
        for placed in passes:
            together = [*placed, unit]
            if (cap is None or sum(each.images_per_step for each in together) <= cap) and fits(together):
                placed.append(unit)
                break
        else:
            passes.append([unit])
    return passes
