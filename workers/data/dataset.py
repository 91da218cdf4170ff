"""A task's images as arrays, split and ready to train on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.data.config import TaskConfig
from workers.data.resizing import Resize
from workers.data.roots import DataRoots


@dataclass(frozen=True)
class ImageSet:
    """The images of one part (train, val or test), in the order of their keys."""

    images: np.ndarray
    """uint8 [images, 3, size, size], memory-mapped and read-only."""
    labels: np.ndarray
    """int64 [images]."""
    keys: tuple[str, ...]


@dataclass(frozen=True)
class TaskData:
    """A task with its three image sets."""

    name: str
    class_names: tuple[str, ...]
    template: str
    train: ImageSet
    val: ImageSet
    """May be empty."""
    test: ImageSet
    fingerprint: str
    """sha256 over the content of every image used, labels, class names and split."""
    num_unreadable: int
    unreadable: tuple[str, ...]
    """Keys of the first 20 images that could not be read."""


def load_task(task: TaskConfig, resize: Resize, *, roots: DataRoots, cache_dir: Path) -> TaskData:
    raise NotImplementedError
