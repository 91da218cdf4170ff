"""The bottleneck adapter with VL-Adapter's sharings (Sung, Cho, Bansal: VL-Adapter, CVPR 2022, section 3.2 and 3.3).

    A(h) = h + W_up GELU(W_down h + b_down) + b_up        on the output of attention and of the MLP

Single adapters are `sharing: all`, multiple ones `alone`; half-shared ones (`half`) have one projection for all tasks
and the other for each.
"""

from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.adapter_config import AdapterConfig, Tower
from workers.methods.adapters import AdapterMethod, Bottlenecks, as_bottlenecks, linear_adapters, side_by_side
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet


class Adapter(AdapterMethod):
    """The adapters of one group.  A set, per tower: `down` [N, H, D], `down_bias`, `up` [N, D, H], `up_bias`."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: AdapterConfig, *, seed: int):
        self._adapter = config
        super().__init__(clip, tasks, config, seed=seed)

    def new_adapters(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """A whole adapter, or the half that the group or the task has."""
        made = linear_adapters(self.sizes, rng)
        if self._adapter.sharing != "half":
            return made
        own = {"down": "up", "up": "down"}[self._adapter.shared_half]
        half = self._adapter.shared_half if task is None else own
        return {name: tensor for name, tensor in made.items() if name.startswith(f"{half}_")}

    def bottlenecks(self, tower: Tower, sets: Sequence[ParameterSet]) -> Bottlenecks:
        """Two halves make one adapter; two whole ones stand side by side."""
        if self._adapter.sharing == "half":
            return as_bottlenecks(tower, {name: tensor for part in sets for name, tensor in part.items()})
        return side_by_side([as_bottlenecks(tower, part) for part in sets])
