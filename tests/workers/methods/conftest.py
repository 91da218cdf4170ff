"""Tasks of the other kinds, made from the tasks of arrays, and the tiny CLIP in bf16."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workers.clip.config import BackboneConfig
from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.dataset import ImageSet, TaskData


@pytest.fixture(scope="session")
def tiny_clip_bf16(tiny_clip_dir: Path) -> FrozenCLIP:
    """The tiny CLIP, stored and computed in bf16."""
    return load_clip(BackboneConfig(model=f"local-dir:{tiny_clip_dir}", precision="bf16"))


@pytest.fixture
def other_kinds(tasks: dict[str, TaskData]) -> dict[str, TaskData]:
    """A multi-label task and a retrieval task."""

    def with_labels(images: ImageSet) -> ImageSet:
        labels = np.eye(3, dtype=np.uint8)[images.labels]
        labels[:, 0] |= np.arange(len(labels)) % 2 == 0
        return replace(images, labels=labels)

    def with_captions(images: ImageSet) -> ImageSet:
        colours = ("red", "green", "blue")
        captions = tuple(
            (f"a {colours[label]} picture", f"number {row} in {colours[label]}")[: 1 + row % 2]
            for row, label in enumerate(images.labels.tolist())
        )
        return replace(images, labels=np.zeros_like(images.labels), captions=captions)

    made = []
    for kind, change in (("multi_label", with_labels), ("retrieval", with_captions)):
        base = tasks["art"]
        parts = {part: change(getattr(base, part)) for part in ("train", "val", "test")}
        made.append(replace(base, name=kind, kind=kind, fingerprint=base.fingerprint + kind, **parts))
    made[1] = replace(made[1], class_names=(), template="{}")
    return {task.name: task for task in made}
