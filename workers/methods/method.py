"""What a method is: the trainable part of one group of tasks, and how it plugs into the frozen towers.

A method answers four questions: which parameters are group-shared, which are a task's own, what are the logits of these
images for this task, and what state is worth saving.  It is handed the frozen backbone; it does not load, freeze or
move it.

    # B images, V views of an image, N images of a task, C copies of the method's edits, K classes, E joint embedding
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits
from workers.data.config import TaskKind
from workers.methods.base_config import MethodSpec


@dataclass(frozen=True)
class TaskInfo:
    """What a method knows of a task: everything but its images."""

    name: str
    class_names: tuple[str, ...]
    """Empty for a retrieval task, whose texts are its captions."""
    template: str
    kind: TaskKind = "classification"
    num_train: int = 0
    """Training images, for a method whose size depends on them."""


class TaskFeatures(Protocol):
    """A task on the frozen backbone: features that are computed once, fp32, not normalised."""

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Training images under every cached view, and their labels.  [V, N, E] and [N] (or [N, K])."""
        ...

    def val(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Validation images and their labels.  [N, E] and [N] (or [N, K]); N may be 0."""
        ...

    def texts(self) -> torch.Tensor:
        """Class features, averaged over the method's templates.  [K, E]"""
        ...


@dataclass(frozen=True)
class TowerEdits:
    """What a method plugs into both towers, for the tasks of one pass at once."""

    image: Edits
    text: Edits
    copies: tuple[int, ...]
    """For every task of the pass, which copy of the edits is its own."""


class Method(ABC):
    """The trainable part of one group."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: MethodSpec):
        self.clip = clip
        self.config = config
        self.infos = {task.name: task for task in tasks}
        self.tasks = tuple(self.infos)
        assert len(self.tasks) == len(tasks) > 0
        if unfit := [task for task in tasks if task.kind not in config.task_kinds()]:
            raise ValueError(
                f"method {getattr(config, 'kind', '')}: task {unfit[0].name!r} is of kind {unfit[0].kind}, but it "
                f"learns {' and '.join(config.task_kinds())} only with these settings. Choose another method, or leave "
                "the task out."
            )
        self._bias = {
            task.name: torch.zeros((), device=clip.device).requires_grad_(config.trains)
            for task in tasks
            if task.kind == "multi_label"
        }

    @abstractmethod
    def group_shared(self) -> dict[str, torch.Tensor]:
        """Parameters that all tasks of the group train together, by name.  fp32 leaves."""

    @abstractmethod
    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """Parameters that only this task trains, by name.  fp32 leaves."""

    @abstractmethod
    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """What to plug into the towers for these tasks, differentiable in the parameters."""

    @property
    def batch_key(self) -> tuple | None:
        """Methods with equal keys can run in one forward pass.  None: it shares its passes with nobody."""
        return None

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        """Which tasks share a forward pass."""
        return (self.tasks,)

    @property
    def group_gradient_scale(self) -> float:
        """What the group-shared gradient of the summed task losses is multiplied with."""
        return 1.0

    def templates(self, task: str) -> tuple[str, ...]:
        """The sentences around a class name; `text_features` are made of all of them."""
        return (self.infos[task].template,)

    def ensemble(self, features_TKE: torch.Tensor) -> torch.Tensor:
        """Class features of several templates as one, [templates, K, E] -> [K, E]: the mean of their directions."""
        return features_TKE[0] if len(features_TKE) == 1 else F.normalize(features_TKE, dim=-1).mean(dim=0)

    def adapt(
        self, task: str, image_features: torch.Tensor, text_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the cosines of a task are taken of.  [B, E] and [K, E], not normalised -> the same."""
        return image_features, text_features

    def logits(self, task: str, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Class logits in fp32.  [B, E] and [K, E], not normalised -> [B, K]."""
        images, texts = self.adapt(task, image_features, text_features)
        cosine = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
        return self.clip.logit_scale * cosine + self.clip.logit_bias

    def task_logits(self, task: str, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """`logits`, and for a multi-label task its learned bias added.  [B, E] and [K, E] -> [B, K]."""
        logits = self.logits(task, image_features, text_features)
        return logits + self._bias[task] if task in self._bias else logits

    def fit(self, features: Callable[[str], TaskFeatures]) -> None:
        """Computes what is to be known of the training data before the first step; called once on a fresh method.

        Here: a multi-label task's bias, so that on the frozen features its mean predicted probability is the frequency
        of its labels.
        """
        for task, bias in self._bias.items():
            images_VNE, labels = features(task).train()
            with torch.no_grad():
                logits = self.logits(task, images_VNE[0], features(task).texts())
                bias.fill_(_bias_for(logits, float(labels.float().mean().clamp(1e-3, 1 - 1e-3))))

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` has something to do."""
        return bool(self._bias)

    def fitted(self) -> dict[str, torch.Tensor]:
        """Tensors that `fit` computed and no step changes, by full name: saved beside what is learned."""
        return {} if self.config.trains else {f"task.{task}.logit_bias": bias for task, bias in self._bias.items()}

    def details(self, task: str) -> dict[str, float]:
        """What the method has to tell of a task once it is trained."""
        return {}

    def learned(self) -> dict[str, torch.Tensor]:
        """The learned tensors by full name: `shared.NAME` and `task.TASK.NAME`."""
        named = {f"shared.{name}": tensor for name, tensor in self.group_shared().items()}
        for task in self.tasks:
            named |= {f"task.{task}.{name}": tensor for name, tensor in self.task_specific(task).items()}
            if task in self._bias and self.config.trains:
                named[f"task.{task}.logit_bias"] = self._bias[task]
        return named

    def parameters(self) -> list[torch.Tensor]:
        """Everything the optimiser holds."""
        return list(self.learned().values())

    def state(self) -> dict[str, torch.Tensor]:
        """Everything worth saving, by full name."""
        return self.learned() | self.fitted()

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies saved tensors in.  Names and shapes must match exactly."""
        own = self.state()
        if own.keys() != tensors.keys():
            raise ValueError(
                f"learned tensors do not fit {type(self).__name__}: missing {sorted(own.keys() - tensors.keys())}, "
                f"unknown {sorted(tensors.keys() - own.keys())}."
            )
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(
                    f"learned tensor {name!r} has shape {list(tensors[name].shape)}, expected {list(tensor.shape)}."
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def count_parameters(self) -> dict[str, int]:
        """How many numbers are trained: `group_shared`, `task_specific` (all tasks together) and `total`."""
        shared = sum(tensor.numel() for tensor in self.group_shared().values())
        total = sum(tensor.numel() for tensor in self.learned().values())
        return {"group_shared": shared, "task_specific": total - shared, "total": total}


def _bias_for(logits: torch.Tensor, frequency: float) -> float:
    """What to add to logits so that the mean of their probabilities is `frequency`, by bisection."""
    low, high = -float(logits.max()) - 10, -float(logits.min()) + 10
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float(torch.sigmoid(logits + middle).mean()) < frequency else (low, middle)
    return (low + high) / 2
