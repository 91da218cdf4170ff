"""What a source says about a task before any image is opened: its classes and where every image's bytes are.

A listing knows no split by numbers and no pixels, so the control plane can make one in order to validate a job.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Found:
    """What a source holds: its labels (a folder's may have no image), and its images with the labels of each."""

    labels: set[str] = field(default_factory=set)
    images: list[tuple[tuple[str, ...], Item]] = field(default_factory=list)

    @classmethod
    def of(cls, images: list[tuple[tuple[str, ...], Item]]) -> "Found":
        """The images, and the labels that they have."""
        return cls({label for own, _ in images for label in own}, images)
