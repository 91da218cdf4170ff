"""What all adapters in the blocks share: one bottleneck after attention and one after the MLP of every block.

    A(h) = h + W_up GELU(W_down h + b_down) + b_up

A method says what the weights are; how they reach the towers stands here.  A tower's adapters are stacked in a few
tensors, which keeps the optimiser cheap, and are cast and taken apart once per pass.

# N adapters of one tower (blocks x places), H bottleneck width, D tower width, B rows, L positions
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.clip.image_tower import ImageTower
from workers.clip.seam import Branch, Edits
from workers.clip.text_tower import TextTower
from workers.methods.adapter_config import AdapterSpec, Place, Tower
from workers.methods.method import TaskInfo, TowerEdits
from workers.methods.parameter_sets import ParameterSet, SetMethod


class Bottlenecks(NamedTuple):
    """The weights of all adapters of one tower: block by block, in a block place by place."""

    down_NHD: torch.Tensor
    down_bias_NH: torch.Tensor
    up_NDH: torch.Tensor
    up_bias_ND: torch.Tensor


class AdapterMethod(SetMethod):
    """A method that plugs bottlenecks into the branches of one tower or both."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: AdapterSpec, *, seed: int):
        self.spec = config
        self._towers: dict[Tower, ImageTower | TextTower] = {"image": clip.image, "text": clip.text}
        # Number of adapters, tower width and bottleneck width of the towers that have adapters.
        self.sizes: dict[Tower, tuple[int, int, int]] = {
            name: (tower.layers * len(config.where), tower.width, config.bottleneck(name, tower.width))
            for name, tower in self._towers.items()
            if config.has(name)
        }
        if config.task_prefix and (captioned := [task.name for task in tasks if task.kind == "retrieval"]):
            raise ValueError(
                f"task_prefix=true: task {captioned[0]!r} is of kind retrieval, whose texts are whole captions; a "
                "prefix stands before a class's sentence only. Leave task_prefix out, or the task."
            )
        super().__init__(clip, tasks, config, seed=seed)

    @abstractmethod
    def new_adapters(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Fresh adapters, or the part of them that the group (`task` is None) or the task has, on the CPU."""

    @abstractmethod
    def bottlenecks(self, tower: Tower, sets: Sequence[ParameterSet]) -> Bottlenecks:
        """The adapters of one tower that the sets of one copy stand for, differentiable in the sets."""

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """The adapters; and where LayerNorms are trained, how far they are from CLIP's own (`norms`, flat)."""
        made = self.new_adapters(rng, task)
        if self.spec.tune_layer_norms and (task is None or not self.owners()[0]):
            for tower in ("image", "text"):
                made[f"norms_{tower}"] = torch.zeros(sum(norm.numel() for norm in self._frozen_norms(tower).values()))
        return made

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """One copy per task, or one in all if no task has parameters of its own."""
        copies, index = self.copies(tasks)
        return TowerEdits(image=self._edits("image", copies), text=self._edits("text", copies), copies=index)

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        """All tasks at once, unless every task has LayerNorms of its own."""
        takes_turns = self.spec.tune_layer_norms and not self.owners()[0]
        return tuple((task,) for task in self.tasks) if takes_turns else (self.tasks,)

    @property
    def batch_key(self) -> tuple | None:
        """Adapters of any size fit into one pass, if they stand in the same towers; LayerNorms do not."""
        return None if self.spec.tune_layer_norms else ("branches", *self.sizes)

    def templates(self, task: str) -> tuple[str, ...]:
        """The task's own, behind the task's name if the config says so."""
        (template,) = super().templates(task)
        return (f"{task.replace('-', ' ').replace('_', ' ')}: {template}",) if self.spec.task_prefix else (template,)

    def _edits(self, tower: Tower, copies: Sequence[Sequence[ParameterSet]]) -> Edits:
        branch = None
        if tower in self.sizes:
            made = [self.bottlenecks(tower, sets) for sets in copies]
            branch = adapter_branch(made, self.spec.where, self._towers[tower].dtype)
        return Edits(branch=branch, overrides=self._norms(tower, copies[0]) if self.spec.tune_layer_norms else {})

    def _norms(self, tower: Tower, sets: Sequence[ParameterSet]) -> dict[str, torch.Tensor]:
        """The trained LayerNorms of one pass: all its tasks have the same."""
        (offsets,) = (part[f"norms_{tower}"] for part in sets if f"norms_{tower}" in part)
        frozen = self._frozen_norms(tower)
        parts = offsets.split([norm.numel() for norm in frozen.values()])
        return {name: norm.float() + part for (name, norm), part in zip(frozen.items(), parts, strict=True)}

    def _frozen_norms(self, tower: Tower) -> dict[str, torch.Tensor]:
        norms = self._towers[tower].layer_norms()
        return {name: tensor for name, tensor in self._towers[tower].parameters().items() if name in norms}


def adapter_branch(copies: Sequence[Bottlenecks], where: Sequence[Place], dtype: torch.dtype) -> Branch:
    """The branch function of one tower under several copies of its adapters, computing in `dtype`."""
    taken_apart = [[stack.to(dtype).unbind() for stack in copy] for copy in copies]
    places = {place: index for index, place in enumerate(where)}

    def branch(layer, place, x_BLD, rows):
        if place not in places:
            return x_BLD
        at = layer * len(places) + places[place]
        parts = [_adapted(x, *(stack[at] for stack in taken_apart[copy])) for copy, x in rows.split(x_BLD)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return branch


def side_by_side(parts: Sequence[Bottlenecks]) -> Bottlenecks:
    """Adapters that read the same input and whose updates add up, as one: a bottleneck of all their widths."""
    if len(parts) == 1:
        return parts[0]
    return Bottlenecks(
        down_NHD=torch.cat([part.down_NHD for part in parts], dim=1),
        down_bias_NH=torch.cat([part.down_bias_NH for part in parts], dim=1),
        up_NDH=torch.cat([part.up_NDH for part in parts], dim=2),
        up_bias_ND=torch.stack([part.up_bias_ND for part in parts]).sum(dim=0),
    )


def linear_init(shape: tuple[int, ...], fan_in: int, rng: torch.Generator) -> torch.Tensor:
    """Kaiming-uniform with a = sqrt(5), as torch initialises its Linear: uniform within 1 / sqrt(fan_in)."""
    return (2 * torch.rand(shape, generator=rng) - 1) * fan_in**-0.5


def linear_adapters(sizes: dict[Tower, tuple[int, int, int]], rng: torch.Generator) -> ParameterSet:
    """Plain bottlenecks that change nothing yet: the up-projection starts at zero.

    Zero for both projections would stop all gradients but the last bias's: GELU(0) = 0 (VPT's released adapter).
    """
    made: ParameterSet = {}
    for tower, (num, width, bottleneck) in sizes.items():
        made[f"down_{tower}"] = linear_init((num, bottleneck, width), width, rng)
        made[f"down_bias_{tower}"] = torch.zeros(num, bottleneck)
        made[f"up_{tower}"] = torch.zeros(num, width, bottleneck)
        made[f"up_bias_{tower}"] = torch.zeros(num, width)
    return made


def as_bottlenecks(tower: Tower, made: ParameterSet) -> Bottlenecks:
    """A tower's part of what `linear_adapters` makes."""
    return Bottlenecks(*(made[f"{name}_{tower}"] for name in ("down", "down_bias", "up", "up_bias")))


def _adapted(
    x_BLD: torch.Tensor,
    down_HD: torch.Tensor,
    down_bias_H: torch.Tensor,
    up_DH: torch.Tensor,
    up_bias_D: torch.Tensor,
) -> torch.Tensor:
    """GELU in the form of the released code of VL-Adapter and Compacter (`gelu_new`: the tanh formula)."""
    hidden_BLH = F.gelu(F.linear(x_BLD, down_HD, down_bias_H), approximate="tanh")
    return x_BLD + F.linear(hidden_BLH, up_DH, up_bias_D)
