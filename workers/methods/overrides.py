"""What all methods share that put tensors of their own in the place of a tower's frozen ones.

A tower takes one set of such tensors per pass, so tasks with sets of their own pass one by one.  Names are the towers'
parameter names behind `image.` or `text.`.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch

from workers.clip.image_tower import ImageTower
from workers.clip.seam import Edits
from workers.clip.text_tower import TextTower
from workers.methods.method import TaskInfo, TowerEdits
from workers.methods.parameter_sets import ParameterSet, SetMethod


class OverrideMethod(SetMethod):
    """A method that stands tensors in for frozen ones, and plugs in nothing else."""

    @abstractmethod
    def overrides(self, sets: Sequence[ParameterSet]) -> Mapping[str, torch.Tensor]:
        """The tensors that the sets acting on one task stand in, by full name; fp32, cast by the towers at use."""

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """One copy, for tasks that share all they have, or for a single one."""
        (sets,), index = self.copies(tasks)
        made = self.overrides(sets)
        image, text = (
            {name.removeprefix(tower): tensor for name, tensor in made.items() if name.startswith(tower)}
            for tower in ("image.", "text.")
        )
        return TowerEdits(image=Edits(overrides=image), text=Edits(overrides=text), copies=index)

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        """All tasks at once where they share all they have; else one by one."""
        return tuple((task,) for task in self.tasks) if self.task_specific(self.tasks[0]) else (self.tasks,)

    def frozen(self) -> dict[str, torch.Tensor]:
        """The frozen tensors of both towers by full name."""
        towers: dict[str, ImageTower | TextTower] = {"image": self.clip.image, "text": self.clip.text}
        return {f"{name}.{own}": value for name, tower in towers.items() for own, value in tower.parameters().items()}

    def layer_norms(self) -> set[str]:
        """Full names of the LayerNorms' tensors."""
        return {f"image.{name}" for name in self.clip.image.layer_norms()} | {
            f"text.{name}" for name in self.clip.text.layer_norms()
        }


class TrainedWeights(OverrideMethod):
    """A method that trains some of the towers' tensors themselves: a set holds fp32 copies of them."""

    @abstractmethod
    def trained(self) -> Iterable[str]:
        """Full names of the tensors it trains."""

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Copies of what CLIP has: nothing is drawn."""
        frozen = self.frozen()
        return {name: frozen[name].float().clone() for name in self.trained()}

    def overrides(self, sets: Sequence[ParameterSet]) -> Mapping[str, torch.Tensor]:
        """The copies themselves."""
        (part,) = sets
        return part
