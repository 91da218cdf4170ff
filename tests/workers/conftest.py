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
def mixed_tasks(tasks: dict[str, TaskData]) -> dict[str, TaskData]:
    """One task of every kind, on the same kind of pictures."""
    base = make_task("base", ("red", "green", "blue"), num_train=12)

    def labelled(images: ImageSet) -> ImageSet:
        labels = np.stack([images.labels == 0, images.labels != 1, images.labels == 2], axis=1)
        return replace(images, labels=labels.astype(np.uint8))

    def captioned(images: ImageSet) -> ImageSet:
        words = ("a red square", "some green grass", "the blue sea")
        texts = [(f"{words[label]} {row}", f"picture {row}")[: 1 + row % 2] for row, label in enumerate(images.labels)]
        return replace(images, labels=np.zeros_like(images.labels), captions=tuple(texts))

    def changed(task: TaskData, name: str, change: Callable[[ImageSet], ImageSet], **update: Any) -> TaskData:
        parts = {part: change(getattr(task, part)) for part in ("train", "val", "test")}
        return replace(task, name=name, fingerprint=name, **parts, **update)

    labels = changed(base, "labels", labelled, kind="multi_label", class_names=("warm", "bright", "cold"))
    captions = changed(base, "captions", captioned, kind="retrieval", class_names=(), template="{}")
    return {"art": tasks["art"], "labels": labels, "captions": captions}


@pytest.fixture
def renamed() -> Callable[..., Any]:
    """`renamed(task, template=...)`: the same images under other words."""
    return replace
