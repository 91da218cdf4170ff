"""Which images a task contributes to a step.  Stateless: the answer depends on seed, task and step alone.

So a run resumes at any step without replaying, and a task sees the same images whichever tasks train beside it.

    # B images of one pass, T tasks
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import ImageSet, TaskData
from workers.methods.seeding import derive_seed
from workers.training.augment import apply_crops, draw_crops
from workers.training.config import TrainConfig


@dataclass(frozen=True)
class TaskBatch:
    """One task's share of a step."""

    task: str
    source: ImageSet
    rows: np.ndarray
    """Rows of `source`; with several ranks, this rank's part."""
    epochs: np.ndarray
    """How often each of them was drawn before."""
    crops: np.ndarray | None
    """Augmentation of every image, as `draw_crops` returns it; None: no augmentation."""
    global_count: int
    """Images of the task in this step over all ranks."""
    weight: float = 1.0
    """0 for the stand-in of a rank that has none of the task's images: it computes along and counts for nothing."""

    @property
    def images(self) -> np.ndarray:
        """uint8 [B, 3, H, W]."""
        return self.source.images[self.rows]

    @property
    def captions(self) -> tuple[str, ...]:
        """One caption per image, a pass over the images after another; none for tasks with classes."""
        if not self.source.captions:
            return ()
        chosen = zip(self.rows.tolist(), self.epochs.tolist(), strict=True)
        return tuple(self.source.captions[row][epoch % len(self.source.captions[row])] for row, epoch in chosen)

    @property
    def caption_rows(self) -> np.ndarray:
        """The place of each caption among all captions of the set, image by image.  int64 [B]"""
        counts = np.array([len(texts) for texts in self.source.captions])
        return (np.cumsum(counts) - counts)[self.rows] + self.epochs % counts[self.rows]

    @property
    def labels(self) -> np.ndarray:
        """int64 [B], or uint8 [B, K] for several labels; with captions a number each, equal for
        captions that read the same or describe the same image."""
        if captions := self.captions:
            return number_texts([(text,) for text in captions], self.rows)
        return self.source.labels[self.rows]


def number_texts(captions: Sequence[Sequence[str]], rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """One number per image, equal for images that share a caption's text or are one row.  [images] int64"""
    rows = range(len(captions)) if rows is None else rows
    numbers: list[int] = []
    first_of: dict[object, int] = {}
    for place, (texts, row) in enumerate(zip(captions, rows, strict=True)):
        known = sorted({numbers[first_of[key]] for key in (*texts, int(row)) if key in first_of})
        number = known[0] if known else place
        if len(known) > 1:
            numbers = [number if each in known else each for each in numbers]
        numbers.append(number)
        for key in (*texts, int(row)):
            first_of.setdefault(key, place)
    return np.array(numbers, dtype=np.int64)


def steps_per_epoch(tasks: Sequence[TaskData], config: TrainConfig) -> int:
    """Steps until the longest task of the group has been seen once; shorter tasks start over."""
    return max(-(-len(task.train.labels) // images_per_step(task, config)) for task in tasks)


def images_per_step(task: TaskData, config: TrainConfig) -> int:
    """The batch size, or all images of a task that has fewer."""
    return min(config.batch_size, len(task.train.labels))


def draw_batch(
    data: TaskData,
    config: TrainConfig,
    step: int,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> TaskBatch:
    """The task's batch of this step: the next images of an endless sequence of shuffled passes.

    With several ranks every rank takes its own slice of the same batch, with the same augmentation as one rank would.
    """
    count = images_per_step(data, config)
    rows, epochs = _rows(data.name, len(data.train.labels), config.seed, step * count, count)
    crops = None
    if config.augment is not None:
        crops = draw_crops(config.augment, seed=config.seed, task=data.name, step=step, num=count)
    mine = slice(rank, None, world_size) if rank < count else slice(0, 1)
    return TaskBatch(
        task=data.name,
        source=data.train,
        rows=rows[mine],
        epochs=epochs[mine],
        crops=None if crops is None else crops[mine],
        global_count=count,
        weight=float(rank < count),
    )


def to_pixels(clip: FrozenCLIP, batches: Sequence[TaskBatch]) -> torch.Tensor:
    """The tower's input for several tasks' batches in a row, augmented and normalised.  [B, 3, H, W] fp32."""
    pixels = scale_pixels(clip, np.concatenate([batch.images for batch in batches]))
    if batches[0].crops is not None:
        pixels = apply_crops(
            pixels,
            np.concatenate([batch.crops for batch in batches if batch.crops is not None]),
        )
    return clip.normalise(pixels)


def scale_pixels(clip: FrozenCLIP, images: np.ndarray) -> torch.Tensor:
    """uint8 [B, 3, H, W] -> fp32 in 0..1 on the device."""
    return torch.from_numpy(np.array(images)).to(clip.device).float() / 255


def content_digests(images: ImageSet) -> list[bytes]:
    """sha256 of every image's pixels: equal for the same picture in two tasks."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images.images]


def microbatches(
    digests: Sequence[bytes], task: str, *, seed: int, snapshot: int, num: int, size: int
) -> list[np.ndarray]:
    """`num` disjoint sets of training rows for one snapshot, of at most `size` images each.

    An image's content decides its set, so a picture that two tasks share is in the same set of both: similarities
    compare different sets, and must never meet one picture's noise on both sides (grouping reference, section 5.2).
    Only where a set would stay empty does the fullest one give an image away.
    """
    if len(digests) < num:
        raise ValueError(
            f"Task {task!r}: {len(digests)} training images cannot fill profile.microbatches={num} disjoint "
            f"microbatches. "
            f"Use at most {len(digests)} microbatches, or more shots."
        )
    keys = [derive_seed(seed, "snapshot", snapshot, digest) for digest in digests]
    sets: list[list[int]] = [[] for _ in range(num)]
    for row in sorted(range(len(keys)), key=lambda row: keys[row]):
        sets[keys[row] % num].append(row)
    while (empty := next((part for part in sets if not part), None)) is not None:
        empty.append(max(sets, key=len).pop())
    return [np.array(part[:size]) for part in sets]


def _rows(task: str, total: int, seed: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    positions = np.arange(first, first + count)
    epochs = positions // total
    rows = [_order(seed, task, int(epoch), total)[positions[epochs == epoch] % total] for epoch in np.unique(epochs)]
    return np.concatenate(rows), epochs


@lru_cache(maxsize=4096)
def _order(seed: int, task: str, epoch: int, total: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "order", task, epoch)).permutation(total)
