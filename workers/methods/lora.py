"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685, equation 3) on the attention's projections, as VL-Adapter sets it:

    W_q <- W_q + (alpha / r) B_q A_q        W_v likewise; A Kaiming-uniform, B zero: it starts as CLIP

open_clip packs queries, keys and values into one weight: the updates are added to their rows, and the sum stands in
for the frozen tensor.  That costs the gradient of the whole packed weight, about a tenth of a step; in return both
towers compute what a merged LoRA computes, on every path.  Updates of a group and of a task add up.

    # K layers, D tower width, r rank
"""

import math
from collections.abc import Mapping, Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.method import TaskInfo
from workers.methods.overrides import OverrideMethod
from workers.methods.parameter_sets import ParameterSet
from workers.methods.weight_config import LoRAConfig


class LoRA(OverrideMethod):
    """A set: `TOWER.PROJECTION.down` [K, r, D] and `.up` [K, D, r]; with `biases` an offset to every bias."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: LoRAConfig, *, seed: int):
        self._lora = config
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """A as nn.Linear draws it, Kaiming-uniform with a = sqrt(5): between -1/sqrt(D) and 1/sqrt(D).  B zero."""
        made = {}
        for name, tower in (("image", self.clip.image), ("text", self.clip.text)):
            for target in self._lora.targets:
                shape = (tower.layers, self._lora.rank, tower.width)
                made[f"{name}.{target}.down"] = (2 * torch.rand(shape, generator=rng) - 1) / math.sqrt(tower.width)
                made[f"{name}.{target}.up"] = torch.zeros(tower.layers, tower.width, self._lora.rank)
        if self._lora.biases:
            made |= {name: torch.zeros(value.shape) for name, value in self.frozen().items() if name.endswith("bias")}
        return made

    def overrides(self, sets: Sequence[ParameterSet]) -> Mapping[str, torch.Tensor]:
        """The packed weights with their updates, and the biases with their offsets."""
        frozen = self.frozen()
        made = {}
        for name, tower in (("image", self.clip.image), ("text", self.clip.text)):
            updates = {target: self._update(sets, f"{name}.{target}") for target in self._lora.targets}
            for layer in range(tower.layers):
                packed = f"{name}.transformer.resblocks.{layer}.attn.in_proj_weight"
                rows = zip(("query", "key", "value"), frozen[packed].float().chunk(3), strict=True)
                made[packed] = torch.cat(
                    [own + updates[target][layer] if target in updates else own for target, own in rows]
                )
        for name in [name for name in sets[0] if name in frozen]:
            made[name] = frozen[name].float() + sum(part[name] for part in sets)
        return made

    def _update(self, sets: Sequence[ParameterSet], target: str) -> torch.Tensor:
        """[K, D, D]: the sum of the sets' updates, as one product."""
        up = torch.cat([part[f"{target}.up"] for part in sets], dim=2)
        down = torch.cat([part[f"{target}.down"] for part in sets], dim=1)
        return (self._lora.alpha / self._lora.rank) * (up @ down)
