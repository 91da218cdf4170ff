"""Every task's gradient at one shared prompt, from one backward.

A signature is the gradient with respect to the *generated* prompts.  Gradients of the factors depend on an arbitrary
scale: (c W) (x) (P / c) is the same prompt.  Every task reads the shared prompt through a copy of its own, so one
backward of the summed losses leaves every task's gradient on its own copy.  Where tasks have the same class
sentences their text features are computed once, and the text tower's backward is run once per task of the most
crowded list.

    # T tasks, P numbers in a prompt (text, then image), U distinct class lists
    # K layers, M prompt tokens, D width
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits, Rows
from workers.methods.config import MmAPConfig
from workers.methods.method import Method, TaskInfo, TowerEdits
from workers.methods.prompts import prompted_layers
from workers.training.batches import TaskBatch, scale_pixels
from workers.training.forward import ClassLists
from workers.training.kinds import image_losses


@dataclass(frozen=True)
class TaskGradients:
    """One microbatch of every task."""

    gradients: torch.Tensor
    """[T, P] fp32: text prompts [K, M, D_text] flattened, then image prompts [K, M, D_image]."""
    losses: torch.Tensor
    """[T] mean loss of each task's kind."""


def task_gradients(
    clip: FrozenCLIP, method: Method, lists: ClassLists, batches: Mapping[str, TaskBatch]
) -> TaskGradients:
    """Every task's gradient at one shared prompt, from one pass over all tasks' images.

    `method` is the shared prompt's, with a single copy of it for all tasks; `batches` holds a batch per task.
    """
    tasks = list(batches)
    edits = method.edits(tasks)
    shared_text, shared_image = edits.text.prompts_CKMD, edits.image.prompts_CKMD
    assert shared_text is not None and shared_image is not None and len(shared_text) == 1
    sentences = {
        task: (batch.captions or method.infos[task].class_names, method.infos[task].template)
        for task, batch in batches.items()
    }
    distinct = list(dict.fromkeys(sentences.values()))
    owners = [[place for place, task in enumerate(tasks) if sentences[task] == key] for key in distinct]

    # Text: one copy of the prompt per distinct class list; a task's features are a leaf of its own.
    text_copies = _copies(shared_text, len(distinct))
    text_U = clip.text(
        [
            clip.caption_list(key[0], num_prompt_tokens=edits.text.num_tokens)
            if batches[tasks[places[0]]].captions
            else lists[key]
            for key, places in zip(distinct, owners, strict=True)
        ],
        Edits(text_copies),
        range(len(distinct)),
    )
    texts = {
        place: text.detach().requires_grad_() for text, places in zip(text_U, owners, strict=True) for place in places
    }

    # Images: one copy of the prompt per task, gathered per image.
    image_copies = _copies(shared_image, len(tasks))
    pixels = clip.normalise(scale_pixels(clip, np.concatenate([batch.images for batch in batches.values()])))
    counts = [len(batch.rows) for batch in batches.values()]
    rows = Rows.of(list(enumerate(counts)), clip.device)
    features = clip.image(pixels, Edits(image_copies), rows).split(counts)
    losses = torch.stack(
        [
            image_losses(
                method.infos[task].kind,
                method.task_logits(task, features[place], texts[place]),
                torch.from_numpy(batches[task].labels).to(clip.device),
            ).mean()
            for place, task in enumerate(tasks)
        ]
    )
    leaves = [texts[place] for place in range(len(tasks))]
    image_gradients, *text_leaf_gradients = torch.autograd.grad(losses.sum(), [image_copies, *leaves])

    # Text again: the k-th task of every list goes back through the text tower together.
    rounds = max(len(places) for places in owners)
    text_gradients = torch.zeros(len(tasks), *shared_text.shape[1:], device=clip.device)
    for turn in range(rounds):
        active = [(index, places[turn]) for index, places in enumerate(owners) if turn < len(places)]
        (gradients,) = torch.autograd.grad(
            [text_U[index] for index, _ in active],
            text_copies,
            [text_leaf_gradients[place] for _, place in active],
            retain_graph=turn < rounds - 1,
        )
        for index, place in active:
            text_gradients[place] = gradients[index]
    flat = torch.cat([text_gradients.flatten(1), image_gradients.flatten(1)], dim=1)
    return TaskGradients(gradients=flat, losses=losses.detach())


def flat_prompts(method: Method) -> np.ndarray:
    """The shared prompt itself, in the order of a signature.  [P]"""
    edits = method.edits(method.tasks)
    prompts = [edits.text.prompts_CKMD, edits.image.prompts_CKMD]
    return torch.cat([part[0].detach().flatten() for part in prompts if part is not None]).cpu().numpy()


class StoredPrompt(Method):
    """A shared prompt as its bare numbers, to measure tasks at; nothing trains it.

    A multi-label task's bias is the one that it starts with (`fit`), whatever the training of the shared prompt made of
    it: so a signature depends on prompt and task alone, and can be taken later as well.
    """

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: MmAPConfig):
        super().__init__(clip, tasks, config)
        self._tokens = config.num_tokens
        self._layers = num_layers(clip, config)
        self._prompts: tuple[torch.Tensor, ...] = ()

    def place(self, prompts: np.ndarray) -> None:
        """Takes the numbers that `flat_prompts` gave.  [P]"""
        widths = (self.clip.text.width, self.clip.image.width)
        expected = self._layers * self._tokens * sum(widths)
        if prompts.shape != (expected,):
            raise ValueError(
                f"stored prompts have shape {list(prompts.shape)}; this backbone and method have {expected} numbers. "
                "Measure with the backbone and the method of the profile that stored them."
            )
        numbers = torch.from_numpy(np.array(prompts, dtype=np.float32)).to(self.clip.device)
        parts = numbers.split([self._layers * self._tokens * width for width in widths])
        shape = (1, self._layers, self._tokens)
        self._prompts = tuple(part.view(*shape, width) for part, width in zip(parts, widths, strict=True))

    def group_shared(self) -> dict[str, torch.Tensor]:
        return {}

    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        return {}

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        text, image = self._prompts
        return TowerEdits(image=Edits(image), text=Edits(text), copies=(0,) * len(tasks))


def num_layers(clip: FrozenCLIP, config: MmAPConfig) -> int:
    """Layers that the shared prompt has prompts for, the same in both towers."""
    return prompted_layers("mmap", config.depth, min(clip.text.layers, clip.image.layers), towers="both towers have")


def _copies(shared: torch.Tensor, num: int) -> torch.Tensor:
    return shared.detach().expand(num, *shared.shape[1:]).clone().requires_grad_()
