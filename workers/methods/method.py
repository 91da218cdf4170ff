"""What a method is: the trainable part of one group of tasks, and how it plugs into the frozen towers.

A method answers four questions: which parameters are group-shared, which are a task's own, what are the logits of these
images for this task, and what state is worth saving.  It is handed the frozen backbone; it does not load, freeze or
move it.

    # B images, C copies of the method's edits, K classes, E joint embedding
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits


@dataclass(frozen=True)
class TowerEdits:
    """What a method plugs into both towers, for all of its tasks at once."""

    image: Edits
    text: Edits
    copies: tuple[int, ...]
    """For every task of the method, which copy of the edits is its own."""


class Method(ABC):
    """The trainable part of one group."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[str]):
        assert len(set(tasks)) == len(tasks) > 0
        self.clip = clip
        self.tasks = tuple(tasks)

    @abstractmethod
    def group_shared(self) -> dict[str, torch.Tensor]:
        """Parameters that all tasks of the group train together, by name.  fp32 leaves."""

    @abstractmethod
    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """Parameters that only this task trains, by name.  fp32 leaves."""

    @abstractmethod
    def edits(self) -> TowerEdits:
        """What to plug into the towers, differentiable in the parameters."""

    @property
    @abstractmethod
    def batch_key(self) -> tuple:
        """Methods with equal keys can run in one forward pass: their edits differ in values only."""

    @property
    def group_gradient_scale(self) -> float:
        """What the group-shared gradient of the summed task losses is multiplied with."""
        return 1.0

    def logits(self, task: str, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Class logits in fp32.  [B, E] and [K, E], not normalised -> [B, K]."""
        cosine = F.normalize(image_features.float(), dim=-1) @ F.normalize(text_features.float(), dim=-1).T
        return self.clip.logit_scale * cosine + self.clip.logit_bias

    def parameters(self) -> list[torch.Tensor]:
        """Everything the optimiser holds."""
        return list(self.state().values())

    def state(self) -> dict[str, torch.Tensor]:
        """The learned tensors by full name: `shared.NAME` and `task.TASK.NAME`."""
        named = {f"shared.{name}": tensor for name, tensor in self.group_shared().items()}
        for task in self.tasks:
            named |= {f"task.{task}.{name}": tensor for name, tensor in self.task_specific(task).items()}
        return named

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies learned tensors in.  Names and shapes must match exactly."""
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
        group_shared = sum(tensor.numel() for tensor in self.group_shared().values())
        task_specific = sum(tensor.numel() for task in self.tasks for tensor in self.task_specific(task).values())
        return {
            "group_shared": group_shared,
            "task_specific": task_specific,
            "total": group_shared + task_specific,
        }


def join_edits(parts: Sequence[TowerEdits]) -> TowerEdits:
    """The edits of several methods with one `batch_key`, as the edits of one pass over all their tasks."""
    if len(parts) == 1:
        return parts[0]
    assert all(not edits.overrides and edits.branch is None for part in parts for edits in (part.image, part.text))
    copies: list[int] = []
    first = 0
    for part in parts:
        copies += [first + copy for copy in part.copies]
        first += 1 if part.image.prompts_CKMD is None else len(part.image.prompts_CKMD)
    return TowerEdits(
        image=Edits(_join_prompts([part.image for part in parts])),
        text=Edits(_join_prompts([part.text for part in parts])),
        copies=tuple(copies),
    )


def _join_prompts(edits: Sequence[Edits]) -> torch.Tensor | None:
    prompts = [edit.prompts_CKMD for edit in edits if edit.prompts_CKMD is not None]
    return torch.cat(prompts) if prompts else None
