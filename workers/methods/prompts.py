"""What all methods with prompt tokens share: the group's tokens and the task's stand side by side in every layer.

[CLS | start, group prompts, task prompts, tokens]

# C copies, K prompted layers, M prompt tokens of one set, D tower width
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits
from workers.methods.method import TowerEdits
from workers.methods.parameter_sets import ParameterSet, SetMethod

PROMPT_STD = 0.02
"""Standard deviation of the first prompts in CoOp, MaPLe and what came after."""


class PromptMethod(SetMethod):
    """A method that plugs prompt tokens into one tower or both, and nothing else."""

    def text_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """The text prompts of one set, [K, M, D_text]; None if the text tower stays as it is."""
        return None

    @abstractmethod
    def image_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """The image prompts of one set, [K, M, D_image]; None if the image tower stays as it is."""

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """One copy per task, or one in all if no task has a set of its own."""
        copies, index = self.copies(tasks)
        return TowerEdits(
            image=Edits(_side_by_side(copies, self._prompts_of_image_tower)),
            text=Edits(_side_by_side(copies, self.text_prompts)),
            copies=index,
        )

    @property
    def batch_key(self) -> tuple | None:
        """Groups with as many tokens and layers in both towers fit into one pass."""
        with torch.no_grad():
            edits = self.edits(self.tasks[:1])
        return ("prompts", edits.text.depth, edits.text.num_tokens, edits.image.depth, edits.image.num_tokens)

    def _prompts_of_image_tower(self, part: ParameterSet) -> torch.Tensor | None:
        prompts = self.image_prompts(part)
        if prompts is None or not getattr(self.config, "before_ln_pre", False):
            return prompts
        return torch.cat([self.clip.image.pre_norm(prompts[:1]), prompts[1:]])


def small_normal(shape: Sequence[int], rng: torch.Generator) -> torch.Tensor:
    """Normal numbers of standard deviation 0.02."""
    return PROMPT_STD * torch.randn(tuple(shape), generator=rng)


def word_vectors(clip: FrozenCLIP, words: Sequence[str]) -> torch.Tensor:
    """The frozen embeddings of words that are one token each, [words, D_text]; ValueError names what is not."""
    if not words:
        return torch.zeros(0, clip.text.width)
    ids_WL = clip.tokenize(list(words), context_length=4).to(torch.long)
    for word, end in zip(words, clip.text.find_end(ids_WL).tolist(), strict=True):
        if end != 2:
            raise ValueError(
                f"init_words: {word!r} is not one token of this model. Use words such as 'a photo of a', or none."
            )
    return clip.text.word_vectors(ids_WL[:, 1].to(clip.device)).cpu()


def prompted_layers(kind: str, depth: int | None, layers: int, *, towers: str) -> int:
    """The configured depth, or every layer; ValueError if there are fewer.  `towers` says whose layers they are."""
    if depth is not None and depth > layers:
        raise ValueError(f"{kind}: depth={depth} exceeds the {layers} layers that {towers}. Use at most {layers}.")
    return depth or layers


def _side_by_side(
    copies: list[list[ParameterSet]], prompts: Callable[[ParameterSet], torch.Tensor | None]
) -> torch.Tensor | None:
    """[C, K, sets * M, D]; a set that several copies share is generated once."""
    made: dict[int, torch.Tensor] = {}
    for part in (part for sets in copies for part in sets):
        if id(part) not in made:
            if (tokens := prompts(part)) is None:
                return None
            made[id(part)] = tokens
    return torch.stack([torch.cat([made[id(part)] for part in sets], dim=1) for sets in copies])
