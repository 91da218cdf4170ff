"""Scoring a trained method on held-out images.

# B images of a batch, N images of a set, K classes, M captions of a set, E joint embedding
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits
from workers.data.config import METRICS
from workers.data.dataset import ImageSet
from workers.methods.method import Method
from workers.training.batches import number_texts, scale_pixels
from workers.training.features import CachedFeatures
from workers.training.forward import ClassLists, text_features
from workers.training.kinds import image_losses, measure

EVALUATION_BATCH = 128
"""Images per evaluation pass.  A bundle predicts with the same size: in bf16 the size can move a rounding."""


@dataclass(frozen=True)
class Scores:
    """How predictions compare with the truth."""

    metric: str
    score: float
    metrics: dict[str, float]
    loss: float
    per_image: np.ndarray
    """fp64 [images]"""


@torch.no_grad()
def class_features(clip: FrozenCLIP, method: Method, lists: ClassLists) -> dict[str, torch.Tensor]:
    """Every task's class features under the method, [K, E] fp32: all that inference needs of the text tower.

    A retrieval task has none: its captions are not known before they are asked for.
    """
    found: dict[str, torch.Tensor] = {}
    for tasks in method.passes:
        with_classes = [task for task in tasks if method.infos[task].class_names]
        if with_classes:
            owners = [(method, task) for task in with_classes]
            features = text_features(clip, lists, owners, method.edits(with_classes), [()] * len(owners))
            found |= zip(with_classes, features, strict=True)
    return found


@torch.no_grad()
def caption_features(clip: FrozenCLIP, method: Method, task: str, captions: tuple[str, ...]) -> torch.Tensor:
    """Texts under the method, [M, E] fp32."""
    blocks = [captions[first : first + EVALUATION_BATCH] for first in range(0, len(captions), EVALUATION_BATCH)]
    edits, lists = method.edits([task]), ClassLists(clip)
    return torch.cat([text_features(clip, lists, [(method, task)], edits, [block])[0] for block in blocks])


@torch.no_grad()
def score(
    clip: FrozenCLIP,
    method: Method,
    task: str,
    images: ImageSet,
    texts: torch.Tensor | None,
    check: Callable[[], None] = lambda: None,
    *,
    cached: tuple[CachedFeatures, str] | None = None,
) -> Scores:
    """The task's metrics and mean loss on an image set with at least one image.

    `texts` are the class features, None for a retrieval task.  `cached` names where a feature-side method's features
    are, and the part that `images` is.  `check` is called before every batch, so that a long evaluation can be
    interrupted (it raises).
    """
    assert len(images.labels) > 0
    kind = method.infos[task].kind
    if texts is None:
        flat = tuple(text for of_image in images.captions for text in of_image)
        texts = cached[0].caption_texts(cached[1]) if cached else caption_features(clip, method, task, flat)
    edits = method.edits([task]).image
    blocks = []
    for rows in _blocks(len(images.labels)):
        check()
        features = cached[0].images(cached[1])[rows] if cached else encode_images(clip, images.images[rows], edits)
        blocks.append(method.task_logits(task, features, texts).cpu())
    logits = torch.cat(blocks)
    labels = torch.from_numpy(np.asarray(images.labels))
    if kind == "retrieval":
        first_M = torch.tensor(np.cumsum([0, *(len(of_image) for of_image in images.captions[:-1])]))
        loss = image_losses(kind, logits[:, first_M], torch.from_numpy(number_texts(images.captions))).mean()
        labels = torch.from_numpy(_own_captions(images.captions))
    else:
        loss = image_losses(kind, logits, labels).mean()
    found = measure(kind, logits.numpy(), labels.numpy())
    metric = METRICS[kind]
    return Scores(metric, found.metrics[metric], found.metrics, float(loss), found.per_image)


def _own_captions(captions: Sequence[Sequence[str]]) -> np.ndarray:
    """Which of all captions, image by image, describe which image: those that read like one of its own.  [N, M]"""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for texts in captions for text in texts))}
    text_M = np.array([numbers[text] for texts in captions for text in texts])
    has_NT = np.zeros((len(captions), len(numbers)), dtype=bool)
    for row, texts in enumerate(captions):
        has_NT[row, [numbers[text] for text in texts]] = True
    return has_NT[:, text_M]


@torch.no_grad()
def encode_images(clip: FrozenCLIP, images: np.ndarray, edits: Edits) -> torch.Tensor:
    """Features of uint8 images [B, 3, H, W], without augmentation: [B, E] fp32, not normalised."""
    return clip.image(clip.normalise(scale_pixels(clip, images)), edits)


def _blocks(total: int) -> Iterator[slice]:
    for first in range(0, total, EVALUATION_BATCH):
        yield slice(first, min(first + EVALUATION_BATCH, total))
