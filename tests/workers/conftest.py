"""Tasks made from arrays, for tests that need data but no files."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from workers.data.dataset import ImageSet, TaskData


def make_task(name: str, class_names: tuple[str, ...], *, num_train: int, seed: int = 0, size: int = 16) -> TaskData:
    """A learnable task: every class has its own mean colour, every image its own noise."""
    rng = np.random.default_rng([seed, *name.encode()])
    means = rng.integers(40, 216, size=(len(class_names), 3, 1, 1))

    def images(count: int) -> ImageSet:
        labels = np.arange(count) % len(class_names)
        pixels = means[labels] + rng.integers(-40, 40, size=(count, 3, size, size))
        keys = tuple(f"{name}-{index}" for index in range(count))
        return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64), keys)

    train = images(num_train)
    return TaskData(
        name=name,
        class_names=class_names,
        template="a photo of a {}.",
        train=train,
        val=images(2 * len(class_names)),
        test=images(4 * len(class_names)),
        fingerprint=sha256(train.images.tobytes()).hexdigest(),
        num_unreadable=0,
        unreadable=(),
    )


@pytest.fixture
def tasks() -> dict[str, TaskData]:
    """Three tasks of uneven size; the first two have the same classes."""
    made = [
        make_task("art", ("red", "green", "blue"), num_train=12),
        make_task("clipart", ("red", "green", "blue"), num_train=9),
        make_task("pets", ("cat", "dog"), num_train=5),
    ]
    return {task.name: task for task in made}


@pytest.fixture
def renamed() -> Callable[..., Any]:
    """`renamed(task, template=...)`: the same images under other words."""
    return replace
