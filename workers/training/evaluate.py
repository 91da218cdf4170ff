"""Scoring a trained method on held-out images.

# B images, K classes, E joint embedding
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits
from workers.data.dataset import ImageSet
from workers.methods.method import Method
from workers.training.batches import scale_pixels
from workers.training.forward import ClassLists, text_features

EVALUATION_BATCH = 128
"""Images per evaluation pass.  A bundle predicts with the same size: in bf16 the size can move a rounding."""


@dataclass(frozen=True)
class Scores:
    """How predictions compare with labels."""

    accuracy: float
    loss: float
    correct: np.ndarray
    """bool [images]"""


@torch.no_grad()
def task_text_features(clip: FrozenCLIP, method: Method, lists: ClassLists) -> dict[str, torch.Tensor]:
    """Every task's class features under the method, [K, E] fp32: all that inference needs of the text tower."""
    return dict(
        zip(
            method.tasks,
            text_features(clip, lists, method.edits(), method.tasks),
            strict=True,
        )
    )


@torch.no_grad()
def score(
    clip: FrozenCLIP,
    method: Method,
    task: str,
    images: ImageSet,
    texts: torch.Tensor,
    check: Callable[[], None] = lambda: None,
) -> Scores:
    """Top-1 accuracy and mean cross-entropy on an image set with at least one image.

    `check` is called before every batch, so that a long evaluation can be interrupted (it raises).
    """
    assert len(images.labels) > 0
    edits, copy = task_image_edits(method, task)
    losses, correct = [], []
    for rows in _blocks(len(images.labels)):
        check()
        logits = method.logits(task, encode_images(clip, images.images[rows], edits, copy), texts)
        labels = torch.from_numpy(images.labels[rows]).to(clip.device)
        losses.append(F.cross_entropy(logits, labels, reduction="none").cpu())
        correct.append((logits.argmax(dim=-1) == labels).cpu())
    return Scores(
        accuracy=float(torch.cat(correct).float().mean()),
        loss=float(torch.cat(losses).mean()),
        correct=torch.cat(correct).numpy(),
    )


@torch.no_grad()
def task_image_edits(method: Method, task: str) -> tuple[Edits, int]:
    """What the method plugs into the image tower for one task: the edits and the task's copy of them."""
    edits = method.edits()
    return edits.image, edits.copies[method.tasks.index(task)]


@torch.no_grad()
def encode_images(clip: FrozenCLIP, images: np.ndarray, edits: Edits, copy: int) -> torch.Tensor:
    """Features of uint8 images [B, 3, H, W], without augmentation: [B, E] fp32, not normalised."""
    pixels = clip.normalise(scale_pixels(clip, images))
    return clip.image(pixels, edits, torch.full((len(pixels),), copy, device=clip.device))


def _blocks(total: int) -> Iterator[slice]:
    for first in range(0, total, EVALUATION_BATCH):
        yield slice(first, min(first + EVALUATION_BATCH, total))
