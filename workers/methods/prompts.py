"""What all methods with prompt tokens share: the group's tokens and the task's stand side by side in every layer.

[CLS | start, group prompts, task prompts, tokens]

# C copies, K prompted layers, M prompt tokens of one set, D tower width
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch

from workers.clip.seam import Edits
from workers.methods.method import TowerEdits
from workers.methods.parameter_sets import ParameterSet, SetMethod


class PromptMethod(SetMethod):
    """A method that plugs prompt tokens into one tower or both, and nothing else."""

    @abstractmethod
    def text_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """The text prompts of one set, [K, M, D_text]; None if the text tower stays as it is."""

    @abstractmethod
    def image_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """The image prompts of one set, [K, M, D_image]; None if the image tower stays as it is."""

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """One copy per task, or one in all if no task has a set of its own."""
        copies, index = self.copies(tasks)
        return TowerEdits(
            image=Edits(_side_by_side(copies, self.image_prompts)),
            text=Edits(_side_by_side(copies, self.text_prompts)),
            copies=index,
        )

    @property
    def batch_key(self) -> tuple:
        """Groups with as many tokens and layers in both towers fit into one pass."""
        with torch.no_grad():
            edits = self.edits(self.tasks[:1])
        return ("prompts", edits.text.depth, edits.text.num_tokens, edits.image.depth, edits.image.num_tokens)


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
