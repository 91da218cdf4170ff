"""CoOp: context optimisation (Zhou et al., IJCV 2022, arXiv 2109.01134, section 3.2).

The words around a class name become learned vectors at the input of the text tower; images stay as they are:

    t_i = text([start] [v_1] ... [v_M] [name_i] [.] [end])        p(i | x) = softmax_i(scale * cos(image(x), t_i))

The name may also stand in the middle of the context or before it, and every class may have a context of its own.  One
context for all classes, the name at its end, is a prompt of one layer and takes the tower's fast path; anything else is
spelt out sentence by sentence.

    # M context vectors, D text width
"""

from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import NO_EDITS, Contexts, Edits
from workers.methods.method import TaskInfo, TowerEdits
from workers.methods.parameter_sets import ParameterSet
from workers.methods.prompt_config import CoOpConfig
from workers.methods.prompts import PromptMethod, small_normal, word_vectors


class CoOp(PromptMethod):
    """The contexts of one group.  A set: `context` [M, D], or [classes, M, D] where every class has its own."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: CoOpConfig, *, seed: int):
        self._coop = config
        self._is_prompt = not config.class_specific and config.class_position == "end"
        self._num_classes = len(tasks[0].class_names)
        if config.class_specific and config.sharing != "alone":
            _refuse_unequal_classes(config, tasks)
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Small random vectors, or the embeddings of the config's words: M*D numbers, for every class if asked."""
        if self._coop.init_words is None:
            context = small_normal((self._coop.context_length, self.clip.text.width), rng)
        else:
            context = word_vectors(self.clip, self._coop.init_words.split())
        if not self._coop.class_specific:
            return {"context": context}
        num_classes = len(task.class_names) if task else self._num_classes
        if self._coop.init_words is None:
            return {"context": small_normal((num_classes, *context.shape), rng)}
        return {"context": context.repeat(num_classes, 1, 1)}

    def text_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[1, M, D]"""
        return part["context"][None]

    def image_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """None: images stay as they are."""
        return None

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """A prompt of one layer where that says the same, else context between a sentence's own tokens."""
        if self._is_prompt:
            return super().edits(tasks)
        copies, index = self.copies(tasks)
        vectors = tuple(torch.cat([_per_class(part["context"]) for part in sets], dim=1) for sets in copies)
        text = Edits(contexts=Contexts(vectors, self._coop.class_position))
        return TowerEdits(image=NO_EDITS, text=text, copies=index)

    @property
    def batch_key(self) -> tuple | None:
        """None where the context is no prompt: contexts of several groups are not joined."""
        return super().batch_key if self._is_prompt else None

    def templates(self, task: str) -> tuple[str, ...]:
        """The name and a full stop; a caption as it is."""
        return ("{}",) if self.infos[task].kind == "retrieval" else ("{}.",)


def _per_class(context: torch.Tensor) -> torch.Tensor:
    """[1, M, D] of a context that all classes share."""
    return context if context.dim() == 3 else context[None]


def _refuse_unequal_classes(config: CoOpConfig, tasks: Sequence[TaskInfo]) -> None:
    first = tasks[0]
    if other := next((task for task in tasks if task.class_names != first.class_names), None):
        raise ValueError(
            f"coop: class_specific with sharing={config.sharing} needs tasks with the same class names in the same "
            f"order, but {first.name!r} has {_few(first.class_names)} and {other.name!r} has "
            f"{_few(other.class_names)}. Use sharing: alone, or class_specific: false."
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 3 else ''})"
