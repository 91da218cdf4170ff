"""Tip-Adapter and Tip-Adapter-F: a cache of training features that votes with its labels (Zhang et al., ECCV 2022).

    logits = 100 * z t^T + alpha * exp(-beta * (1 - z F^T)) L

The keys F are the training images' features, each the mean over augmented views, normalised; L holds their labels, one
hot.  Nothing is trained, or (-F) the keys are.  Alpha and beta may be searched, on validation images alone: the paper's
released code looks for -F's best epoch on test images, which is not done here.  They are searched before the first
step, so that the keys are trained for the alpha and beta they are used with.

    # B images, K classes, N cached images, V views, E joint embedding, S values of alpha
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.methods.feature_config import TipAdapterConfig, TipAdapterFConfig
from workers.methods.feature_method import FeatureMethod
from workers.methods.method import TaskFeatures, TaskInfo

LARGEST_ALPHA, NUM_ALPHAS = 3.0, 20
LARGEST_BETA, NUM_BETAS = 7.0, 200
SMALLEST = 0.1
SEARCHED_AT_ONCE = 256


@dataclass(frozen=True)
class Cache:
    """What one owner, a task or the group, has cached."""

    tasks: tuple[str, ...]
    """Whose images, in this order."""
    keys: torch.Tensor
    """[N, E]"""
    classes: torch.Tensor
    """int64 [N]"""
    alpha: torch.Tensor
    beta: torch.Tensor
    searched: torch.Tensor
    """How many validation images alpha and beta were chosen on; 0: they are as given."""


class TipAdapter(FeatureMethod):
    """A cache per task, or one for the group."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: TipAdapterConfig | TipAdapterFConfig):
        super().__init__(clip, tasks, config)
        self._tip = config
        owners = {task.name: (task,) for task in tasks} if config.sharing == "alone" else {None: tuple(tasks)}
        self._caches = {owner: self._empty(members) for owner, members in owners.items()}

    def group_shared(self) -> dict[str, torch.Tensor]:
        """The keys of the pooled cache, if they are trained."""
        return {"keys": self._caches[None].keys} if self._tip.trains and None in self._caches else {}

    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """The keys of the task's cache, if they are trained."""
        return {"keys": self._caches[task].keys} if self._tip.trains and task in self._caches else {}

    def logits(self, task: str, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Zero-shot logits and the cache's votes."""
        cosine = super().logits(task, image_features, text_features)
        cache = self._cache(task)
        affinity = F.normalize(image_features.float(), dim=-1) @ cache.keys.T
        return cosine + cache.alpha * _votes(affinity, cache.beta, _one_hot(cache.classes, cosine))

    @property
    def needs_fit(self) -> bool:
        """Always: this is where the cache is filled."""
        return True

    @torch.no_grad()
    def fit(self, features: Callable[[str], TaskFeatures]) -> None:
        """Fills the caches, then chooses alpha and beta."""
        super().fit(features)
        for cache in self._caches.values():
            first = 0
            for task in cache.tasks:
                images_VNE, labels = features(task).train()
                rows = slice(first, first + len(labels))
                cache.keys[rows] = F.normalize(_mean_direction(images_VNE), dim=-1)
                cache.classes[rows] = labels
                first = rows.stop
            if self._tip.search:
                self._search(cache, features)

    def fitted(self) -> dict[str, torch.Tensor]:
        """The caches, less the keys if those are trained."""
        found = super().fitted()
        for owner, cache in self._caches.items():
            prefix = "shared" if owner is None else f"task.{owner}"
            names = ("classes", "alpha", "beta", "searched") + (() if self._tip.trains else ("keys",))
            found |= {f"{prefix}.{name}": getattr(cache, name) for name in names}
        return found

    def details(self, task: str) -> dict[str, float]:
        """Alpha and beta, and on how many validation images they were chosen: 0 if they are as given."""
        cache = self._cache(task)
        return {name: float(getattr(cache, name)) for name in ("alpha", "beta", "searched")}

    def _cache(self, task: str) -> Cache:
        return self._caches[task] if task in self._caches else self._caches[None]

    def _empty(self, tasks: Sequence[TaskInfo]) -> Cache:
        for task in tasks:
            if task.class_names != tasks[0].class_names:
                raise ValueError(
                    f"{self._tip.kind}: sharing={self._tip.sharing} pools the caches of tasks with the same classes, "
                    f"but {task.name!r} has other classes than {tasks[0].name!r}. Use sharing: alone."
                )
        num, device = sum(task.num_train for task in tasks), self.clip.device
        assert all(task.num_train > 0 for task in tasks)
        return Cache(
            tasks=tuple(task.name for task in tasks),
            keys=torch.zeros(num, self.clip.embed_dim, device=device).requires_grad_(self._tip.trains),
            classes=torch.zeros(num, dtype=torch.int64, device=device),
            alpha=torch.tensor(self._tip.alpha, device=device),
            beta=torch.tensor(self._tip.beta, device=device),
            searched=torch.tensor(0.0, device=device),
        )

    def _search(self, cache: Cache, features: Callable[[str], TaskFeatures]) -> None:
        """The paper's grid on the validation images of the cache's tasks.  Given values that nothing beats stay."""
        alphas_S = _steps(LARGEST_ALPHA, NUM_ALPHAS, cache.keys)
        betas = _steps(LARGEST_BETA, NUM_BETAS, cache.keys)
        correct = torch.zeros(len(betas), len(alphas_S), dtype=torch.int64, device=cache.keys.device)
        as_given, num = 0, 0
        for task in cache.tasks:
            images_NE, labels = features(task).val()
            texts_KE = features(task).texts()
            num += len(labels)
            for images_BE, labels_B in zip(
                images_NE.split(SEARCHED_AT_ONCE), labels.split(SEARCHED_AT_ONCE), strict=True
            ):
                as_given += int((self.logits(task, images_BE, texts_KE).argmax(dim=1) == labels_B).sum())
                cosine_BK = super().logits(task, images_BE, texts_KE)
                labels_NK = _one_hot(cache.classes, cosine_BK)
                affinity_BN = F.normalize(images_BE, dim=-1) @ cache.keys.T
                for place, beta in enumerate(betas):
                    votes_BK = _votes(affinity_BN, beta, labels_NK)
                    answers_SB = (cosine_BK + alphas_S[:, None, None] * votes_BK).argmax(dim=2)
                    correct[place] += (answers_SB == labels_B).sum(dim=1)
        if int(correct.max()) > as_given:
            place = int(correct.flatten().argmax())
            cache.beta.copy_(betas[place // len(alphas_S)])
            cache.alpha.copy_(alphas_S[place % len(alphas_S)])
        cache.searched.fill_(num)


def _one_hot(classes_N: torch.Tensor, like_BK: torch.Tensor) -> torch.Tensor:
    """L, [N, K]"""
    return F.one_hot(classes_N, like_BK.shape[1]).to(like_BK.dtype)


def _steps(largest: float, num: int, like: torch.Tensor) -> torch.Tensor:
    """`num` values in (SMALLEST, largest], equally spaced."""
    return SMALLEST + (largest - SMALLEST) / num * torch.arange(1, num + 1, device=like.device)


def _votes(affinity_BN: torch.Tensor, beta: torch.Tensor, labels_NK: torch.Tensor) -> torch.Tensor:
    """exp(-beta (1 - z F^T)) L, [B, K]."""
    return ((affinity_BN - 1) * beta).exp() @ labels_NK


def _mean_direction(images_VNE: torch.Tensor) -> torch.Tensor:
    """The mean over views of normalised features, [N, E]; one view at a time."""
    total_NE = torch.zeros_like(images_VNE[0])
    for view_NE in images_VNE:
        total_NE += F.normalize(view_NE, dim=-1)
    return total_NE / len(images_VNE)
