"""Features of the frozen towers, computed once per task: what feature-side methods train and are scored on.

# V views of a training image, N images, K classes, E joint embedding
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import NO_EDITS
from workers.data.dataset import ImageSet, TaskData
from workers.methods.method import Method, TaskFeatures
from workers.training.augment import apply_crops, draw_crops
from workers.training.batches import TaskBatch, scale_pixels
from workers.training.config import AugmentConfig, TrainConfig
from workers.training.forward import ClassLists, Outputs

ENCODED_AT_ONCE = 128


class FeatureCache:
    """Features by content: tasks, methods and runs that ask for the same images under the same views share them."""

    def __init__(self, clip: FrozenCLIP):
        self._clip = clip
        self._kept: dict[tuple, torch.Tensor] = {}

    def images(self, data: TaskData, part: str) -> torch.Tensor:
        """A part's images as they are, [N, E] fp32."""
        images: ImageSet = getattr(data, part)
        return self._keep((data.fingerprint, part), images, None, 0, data.name)

    def views(self, data: TaskData, config: TrainConfig, num_views: int) -> torch.Tensor:
        """The training images under `num_views` random crops each, [V, N, E] fp32; one plain view without
        augmentation."""
        if config.augment is None:
            return self.images(data, "train")[None]
        return torch.stack(
            [
                self._keep(
                    (data.fingerprint, "train", config.augment, config.seed, view),
                    data.train,
                    config.augment,
                    config.seed,
                    data.name,
                    view,
                )
                for view in range(num_views)
            ]
        )

    @torch.no_grad()
    def captions(self, data: TaskData, part: str) -> torch.Tensor:
        """The features of a part's captions, image by image, [captions, E] fp32."""
        key = (data.fingerprint, part, "captions")
        if key not in self._kept:
            texts = [text for of_image in getattr(data, part).captions for text in of_image]
            blocks = [texts[first : first + ENCODED_AT_ONCE] for first in range(0, len(texts), ENCODED_AT_ONCE)]
            found = [self._clip.text([self._clip.caption_list(block)])[0] for block in blocks]
            self._kept[key] = torch.cat(found)
        return self._kept[key]

    @torch.no_grad()
    def _keep(
        self, key: tuple, images: ImageSet, augment: AugmentConfig | None, seed: int, task: str, view: int = 0
    ) -> torch.Tensor:
        if key not in self._kept:
            blocks = [torch.zeros(0, self._clip.embed_dim, device=self._clip.device)]
            crops = None
            if augment is not None:
                crops = draw_crops(augment, seed=seed, task=f"view of {task}", step=view, num=len(images.images))
            for first in range(0, len(images.images), ENCODED_AT_ONCE):
                rows = slice(first, first + ENCODED_AT_ONCE)
                pixels = scale_pixels(self._clip, np.asarray(images.images[rows]))
                if crops is not None:
                    pixels = apply_crops(pixels, crops[rows])
                blocks.append(self._clip.image(self._clip.normalise(pixels), NO_EDITS))
            self._kept[key] = torch.cat(blocks)
        return self._kept[key]


class CachedFeatures(TaskFeatures):
    """One task's features as a method's `fit` sees them."""

    def __init__(self, cache: FeatureCache, lists: ClassLists, method: Method, data: TaskData, config: TrainConfig):
        self._cache, self._lists, self._method, self._data, self._config = cache, lists, method, data, config

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            self._cache.views(self._data, self._config, getattr(self._method.config, "views", 1)),
            self._labels(self._data.train),
        )

    def val(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._cache.images(self._data, "val"), self._labels(self._data.val)

    def texts(self) -> torch.Tensor:
        info = self._method.infos[self._data.name]
        features = [self._lists.frozen(info.class_names, template) for template in self._method.templates(info.name)]
        return self._method.ensemble(torch.stack(features))

    def images(self, part: str) -> torch.Tensor:
        """A part's images, [N, E]."""
        return self._cache.images(self._data, part)

    def caption_texts(self, part: str) -> torch.Tensor:
        """A part's captions, image by image, [captions, E]."""
        return self._cache.captions(self._data, part)

    def _labels(self, images: ImageSet) -> torch.Tensor:
        return torch.from_numpy(np.asarray(images.labels)).to(self._lists.clip.device)


def cached_outputs(
    method: Method, features: Mapping[str, CachedFeatures], batches: Sequence[TaskBatch]
) -> list[Outputs]:
    """What a pass over the towers would compute for these batches, from memory."""
    outputs = []
    for task, batch in zip(method.tasks, batches, strict=True):
        views_VNE, _ = features[task].train()
        images_BE = views_VNE[batch.epochs % len(views_VNE), batch.rows]
        texts_KE = (
            features[task].caption_texts("train")[batch.caption_rows] if batch.captions else features[task].texts()
        )
        outputs.append(Outputs(images_BE, texts_KE, method.task_logits(task, images_BE, texts_KE)))
    return outputs


def task_features(
    cache: FeatureCache, lists: ClassLists, method: Method, data: Mapping[str, TaskData], config: TrainConfig
) -> dict[str, CachedFeatures]:
    """What `Method.fit` looks tasks up in."""
    return {task: CachedFeatures(cache, lists, method, data[task], config) for task in method.tasks}
