"""How much memory a forward pass takes, as far as passes that ran can tell.

What a pass needs beside the backbone's weights grows with its images and its class sentences, each by an amount that
cannot be negative; how much by which nobody knows.  So another pass needs at most what the larger of its shares of the
two says, and of several passes that ran the one that promises most is right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workers.launching.work import GroupUnit

USABLE = 0.9
"""Of the memory that is there: allocators waste some, and other processes come and go."""


@dataclass(frozen=True)
class Footprint:
    """What a pass of so many images and class sentences took of a device worker's memory, in bytes."""

    images: int
    """Training images that were in memory together."""
    texts: int
    weights: int
    """The frozen backbone's."""
    peak: int
    """The most that was held at a time, the weights included."""
    available: int
    """What there was for the process: what was free, and what it held itself."""
    total: int
    """Of its device or, without one, of its machine."""

    def needs(self, images: int, texts: int) -> float:
        """Bytes that a pass of that size needs at most; infinite where this one says nothing of it."""
        if (images and not self.images) or (texts and not self.texts):
            return math.inf
        share = max(images / max(self.images, 1), texts / max(self.texts, 1))
        return self.weights + (self.peak - self.weights) * share


@dataclass(frozen=True)
class Room:
    """What a job's passes may take."""

    known: Sequence[Footprint]
    """Of passes that ran; without any, whatever is asked for is taken to fit."""
    sharers: int
    """Processes that share a device or, without one, a machine."""

    @property
    def size(self) -> float:
        """Bytes for one process."""
        sizes = [min(each.available, each.total / self.sharers) for each in self.known]
        return USABLE * min(sizes, default=math.inf)

    def has(self, units: Sequence[GroupUnit], microbatches: int = 1) -> bool:
        """Whether a pass of these units fits, as far as is known."""
        needs = [each.needs(*size_of(units, microbatches)) for each in self.known]
        return min(needs, default=0.0) <= self.size


def size_of(units: Sequence[GroupUnit], microbatches: int) -> tuple[int, int]:
    """Training images that a pass of these units has in memory together, and its class sentences."""
    images = sum(-(-unit.images_per_step // microbatches) for unit in units)
    return images, sum(unit.texts_per_step for unit in units)
