"""What a source says about a task before any image is opened: its classes and where every image's bytes are.

A listing knows no split by numbers and no pixels, so the control plane can make one in order to validate a job.
"""

from collections.abc import Callable
from dataclasses import dataclass

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One image of a task, not yet read."""

    key: str
    """Stable and unique within the task: the path relative to its source, with `/`, always valid Unicode."""
    label: int
    """classification: index into the listing's class names; else 0."""
    split: str | None
    """train, val or test where the source decides; None where the task's split does."""
    read: Callable[[], bytes]
    """Encoded image, read anew at every call; OSError where there is nothing to read."""
    labels: tuple[int, ...] = ()
    """multi_label: indices of the classes that are in the image, ascending; may be none."""
    captions: tuple[str, ...] = ()
    """retrieval: what describes the image, at least one."""


@dataclass(frozen=True)
class Listing:
    """The classes and images of one task."""

    class_names: tuple[str, ...]
    """Display names, as they go into the template; the position is the label.  Empty for retrieval."""
    items: tuple[Item, ...]
    """Sorted by key."""
