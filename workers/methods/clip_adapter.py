"""CLIP-Adapter: a bottleneck on the features of either tower (Gao et al. 2021, arXiv 2110.04544, section 3.2).

    A(f) = ReLU(W_up ReLU(W_down f))        f' = alpha * A(f) + (1 - alpha) * f

without biases, on features that are not normalised.  The last ReLU keeps what is added non-negative; with the random
weights it starts from, the method is close to zero-shot but not equal to it.

    # B images, K texts, H bottleneck, E joint embedding
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.methods.feature_config import CLIPAdapterConfig
from workers.methods.feature_method import FeatureMethod
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet, SetMethod

TOWERS = {"vision": ("image",), "text": ("text",), "both": ("image", "text")}


class CLIPAdapter(FeatureMethod, SetMethod):
    """An adapter per modality.  A set: `image_down` and `text_down` [H, E], `image_up` and `text_up` [E, H]."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: CLIPAdapterConfig, *, seed: int):
        self._adapter = config
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Linear layers as PyTorch starts them: uniform within one over the root of their inputs."""
        width = self.clip.embed_dim
        narrow = self._adapter.bottleneck(width)
        made = {}
        for tower in TOWERS[self._adapter.modality]:
            for name, rows, columns in (("down", narrow, width), ("up", width, narrow)):
                made[f"{tower}_{name}"] = (2 * torch.rand(rows, columns, generator=rng) - 1) * columns**-0.5
        return made

    def adapt(
        self, task: str, image_features: torch.Tensor, text_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mixtures, of the modalities that have an adapter."""
        (part,) = self.sets(task)
        return self._mixed(part, "image", image_features), self._mixed(part, "text", text_features)

    def _mixed(self, part: ParameterSet, tower: str, features: torch.Tensor) -> torch.Tensor:
        if f"{tower}_down" not in part:
            return features
        features, alpha = features.float(), self._adapter.alpha
        hidden = F.relu(features @ part[f"{tower}_down"].T)
        return alpha * F.relu(hidden @ part[f"{tower}_up"].T) + (1 - alpha) * features
