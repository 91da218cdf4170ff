"""Features of the frozen towers, computed once per task: what feature-side methods train and are scored on.

# V views of a training image, N images, K classes, E joint embedding
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import NO_EDITS
from workers.data.dataset import ImageSet, TaskData
from workers.methods.method import Method, TaskFeatures
from workers.training.augment import apply_crops, draw_crops
from workers.training.batches import TaskBatch, scale_pixels
from workers.training.config import TrainConfig
from workers.training.forward import ClassLists, Outputs

ENCODED_AT_ONCE = 128
LARGEST_VIEWS = 2 * 1024**3
"""Bytes of one task's augmented features."""


class FeatureCache:
    """Features by content: tasks, methods and runs that ask for the same images under the same views share them.

    `check` is called before every block that is encoded, so that a long encoding can be interrupted (it raises).
    """

    def __init__(self, clip: FrozenCLIP):
        self._clip = clip
        self._kept: dict[tuple, torch.Tensor] = {}

    def images(self, data: TaskData, part: str, check: Callable[[], None]) -> torch.Tensor:
        """A part's images as they are, [N, E] fp32."""
        key = (data.fingerprint, part)
        if key not in self._kept:
            self._kept[key] = self._encode(getattr(data, part), None, check)
        return self._kept[key]

    def views(self, data: TaskData, config: TrainConfig, num_views: int, check: Callable[[], None]) -> torch.Tensor:
        """The training images under `num_views` random crops each, [V, N, E] fp32; one plain view without
        augmentation, or if none is asked for.

        A view is a function of content, seed and its number: a method that asks for fewer gets the first of them.
        ValueError for more than fit into LARGEST_VIEWS.
        """
        if config.augment is None or num_views == 0:
            return self.images(data, "train", check)[None]
        num, key = len(data.train.labels), (data.fingerprint, "views", config.augment, config.seed)
        kept = self._kept.get(key, torch.zeros(0, num, self._clip.embed_dim, device=self._clip.device))
        if len(kept) < num_views:
            _refuse_too_large(data.name, num_views, 4 * num * self._clip.embed_dim)
            views = kept.new_empty(num_views, *kept.shape[1:])
            views[: len(kept)] = kept
            for view in range(len(kept), num_views):
                crops = draw_crops(config.augment, seed=config.seed, task=data.fingerprint, step=view, num=num)
                views[view] = self._encode(data.train, crops, check)
            self._kept[key] = kept = views
        return kept[:num_views]

    @torch.no_grad()
    def captions(self, data: TaskData, part: str, check: Callable[[], None]) -> torch.Tensor:
        """The features of a part's captions, image by image, [captions, E] fp32."""
        key = (data.fingerprint, part, "captions")
        if key not in self._kept:
            texts = [text for of_image in getattr(data, part).captions for text in of_image]
            found = []
            for first in range(0, len(texts), ENCODED_AT_ONCE):
                check()
                found += self._clip.text([self._clip.caption_list(texts[first : first + ENCODED_AT_ONCE])])
            self._kept[key] = torch.cat(found)
        return self._kept[key]

    @torch.no_grad()
    def _encode(self, images: ImageSet, crops: np.ndarray | None, check: Callable[[], None]) -> torch.Tensor:
        blocks = [torch.zeros(0, self._clip.embed_dim, device=self._clip.device)]
        for first in range(0, len(images.labels), ENCODED_AT_ONCE):
            check()
            rows = slice(first, first + ENCODED_AT_ONCE)
            pixels = scale_pixels(self._clip, np.asarray(images.images[rows]))
            if crops is not None:
                pixels = apply_crops(pixels, crops[rows])
            blocks.append(self._clip.image(self._clip.normalise(pixels), NO_EDITS))
        return torch.cat(blocks)


class CachedFeatures(TaskFeatures):
    """One task's features as a method's `fit` and the loop see them."""

    def __init__(
        self,
        cache: FeatureCache,
        lists: ClassLists,
        method: Method,
        data: TaskData,
        config: TrainConfig,
        check: Callable[[], None],
    ):
        self._cache, self._lists, self._method, self._data, self._config = cache, lists, method, data, config
        self._check = check
        self._num_views: int = getattr(method.config, "views", 0)
        self._texts: torch.Tensor | None = None

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        views = self._cache.views(self._data, self._config, self._num_views, self._check)
        return views, self._labels(self._data.train)

    def val(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images("val"), self._labels(self._data.val)

    def texts(self) -> torch.Tensor:
        if self._texts is None:
            info = self._method.infos[self._data.name]
            features = [self._lists.frozen(info.class_names, each) for each in self._method.templates(info.name)]
            self._texts = self._method.ensemble(torch.stack(features))
        return self._texts

    def images(self, part: str) -> torch.Tensor:
        """A part's images, [N, E]."""
        return self._cache.images(self._data, part, self._check)

    def caption_texts(self, part: str) -> torch.Tensor:
        """A part's captions, image by image, [captions, E]."""
        return self._cache.captions(self._data, part, self._check)

    def batch(self, batch: TaskBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """A step's images, [B, E], every pass over them under the next view, and its texts, [K, E]."""
        views_VNE = self._cache.views(self._data, self._config, self._num_views, self._check)
        images_BE = views_VNE[batch.epochs % len(views_VNE), batch.rows]
        return images_BE, self.caption_texts("train")[batch.caption_rows] if batch.captions else self.texts()

    def _labels(self, images: ImageSet) -> torch.Tensor:
        return torch.from_numpy(np.asarray(images.labels)).to(self._lists.clip.device)


def cached_outputs(
    method: Method, features: Mapping[str, CachedFeatures], batches: Sequence[TaskBatch]
) -> list[Outputs]:
    """What a pass over the towers would compute for these batches, from memory."""
    outputs = []
    for task, batch in zip(method.tasks, batches, strict=True):
        images_BE, texts_KE = features[task].batch(batch)
        outputs.append(Outputs(images_BE, texts_KE, method.task_logits(task, images_BE, texts_KE)))
    return outputs


def task_features(
    cache: FeatureCache,
    lists: ClassLists,
    method: Method,
    data: Mapping[str, TaskData],
    config: TrainConfig,
    check: Callable[[], None],
) -> dict[str, CachedFeatures]:
    """What `Method.fit` looks tasks up in."""
    return {task: CachedFeatures(cache, lists, method, data[task], config, check) for task in method.tasks}


def _refuse_too_large(task: str, num_views: int, bytes_of_view: int) -> None:
    if num_views * bytes_of_view > LARGEST_VIEWS:
        raise ValueError(
            f"Task {task!r}: views={num_views} of its training images take {num_views * bytes_of_view / 2**30:.1f} "
            f"GiB, more than {LARGEST_VIEWS / 2**30:.0f}. Use at most {LARGEST_VIEWS // bytes_of_view} views, or "
            f"training.augment: null for one plain view."
        )
