"""TaskRes: task residuals (Yu et al., CVPR 2023, equation 4).

    t' = t + alpha * x        p = softmax(100 * cos(z, t'))

The base t is the class feature averaged over templates without normalising, so alpha's meaning depends on its length;
the residual x starts at zero.  The enhanced base is what a text projection gives that was tuned on the same images;
the paper does not say how, so that is ours: AdamW on the projection alone until the loss no longer falls.

    # B images, K classes, N training images, V views, D text width, E joint embedding
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import NO_EDITS
from workers.methods.feature_config import TaskResConfig
from workers.methods.feature_method import FeatureMethod
from workers.methods.method import TaskFeatures, TaskInfo
from workers.methods.parameter_sets import ParameterSet, SetMethod
from workers.methods.seeding import generator

ENHANCED_LR = 1e-5
ENHANCED_EPOCHS = 50
ENHANCED_BATCH = 32
PATIENCE = 3
"""Epochs without a lower loss after which the projection is tuned no further."""


class TaskRes(FeatureMethod, SetMethod):
    """A residual per task.  A set: `residual` [K, E]."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: TaskResConfig, *, seed: int):
        super().__init__(clip, tasks, config, seed=seed)
        self._alpha = config.alpha
        self._seed = seed
        self._enhancement = {
            task.name: torch.zeros(len(task.class_names), clip.embed_dim, device=clip.device)
            for task in tasks
            if config.enhanced
        }

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """x = 0."""
        assert task is not None
        return {"residual": torch.zeros(len(task.class_names), self.clip.embed_dim)}

    def ensemble(self, features_TKE: torch.Tensor) -> torch.Tensor:
        """The mean of the features as they are."""
        return features_TKE.mean(dim=0)

    def adapt(
        self, task: str, image_features: torch.Tensor, text_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """t + alpha * x in place of t."""
        base = text_features.float()
        if task in self._enhancement:
            base = base + self._enhancement[task]
        return image_features, base + self._alpha * self.task_specific(task)["residual"]

    @property
    def needs_fit(self) -> bool:
        """For the enhanced base, and for the bias of several labels."""
        return super().needs_fit or bool(self._enhancement)

    def fit(self, features: Callable[[str], TaskFeatures]) -> None:
        """Tunes the text projection of every task; what it adds to the class features is kept."""
        super().fit(features)
        for task, enhancement in self._enhancement.items():
            enhancement.copy_(self._enhance(task, features(task)))

    def fitted(self) -> dict[str, torch.Tensor]:
        """`enhancement` [K, E]: the enhanced base less the base."""
        return super().fitted() | {f"task.{task}.enhancement": tensor for task, tensor in self._enhancement.items()}

    def details(self, task: str) -> dict[str, float]:
        """The residual's length: large where the pre-trained classes do not fit the task (the paper's figure 4)."""
        return {"residual_norm": float(self.task_specific(task)["residual"].detach().norm())}

    def _enhance(self, task: str, features: TaskFeatures) -> torch.Tensor:
        """The change of the class features under a tuned projection, [K, E]; of all epochs the one with the lowest
        loss on the validation images, or on the training images where there are none."""
        images_VNE, labels = features.train()
        watched, watched_labels = features.val()
        if len(watched_labels) == 0:
            watched, watched_labels = images_VNE[0], labels
        texts_KE, pooled_KD = features.texts(), self._pooled(task)
        change_DE = torch.zeros(pooled_KD.shape[1], texts_KE.shape[1], device=texts_KE.device, requires_grad=True)
        optimizer = torch.optim.AdamW([change_DE], lr=ENHANCED_LR, weight_decay=0.0)
        best, kept_KE, waited = float("inf"), torch.zeros_like(texts_KE), 0
        for epoch in range(ENHANCED_EPOCHS):
            order = torch.randperm(len(labels), generator=generator(self._seed, "enhanced base", task, epoch))
            for rows in order.to(labels.device).split(ENHANCED_BATCH):
                images_BE = images_VNE[epoch % len(images_VNE), rows]
                loss = self._loss(task, images_BE, texts_KE + pooled_KD @ change_DE, labels[rows])
                (change_DE.grad,) = torch.autograd.grad(loss, [change_DE])
                optimizer.step()
            with torch.no_grad():
                added_KE = pooled_KD @ change_DE
                found = float(self._loss(task, watched, texts_KE + added_KE, watched_labels))
            if found < best:
                best, kept_KE, waited = found, added_KE, 0
            else:
                waited += 1
            if waited == PATIENCE:
                break
        return kept_KE

    @torch.no_grad()
    def _pooled(self, task: str) -> torch.Tensor:
        """What the text projection is applied to, averaged over templates, [K, D]."""
        info, text = self.infos[task], self.clip.text
        lists = [self.clip.class_list(info.class_names, template) for template in self.templates(task)]
        return torch.stack([text.pooled([texts], NO_EDITS, [0]).float() for texts in lists]).mean(dim=0)

    def _loss(self, task: str, images: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.task_logits(task, images, texts)
        if self.infos[task].kind == "multi_label":
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        return F.cross_entropy(logits, labels)
