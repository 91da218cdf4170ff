"""Compacter (Mahabadi, Henderson, Ruder: NeurIPS 2021, section 3): the bottleneck's weights are Kronecker sums.

    W = sum_i A_i (x) B_i,   A_i [n, n],   B_i = s_i t_i^T (low rank) or full [D/n, H/n]      (equations 3 and 4)

The paper shares A, the rules, between all weights of all adapters; VL-Adapter's comparison shares nothing and has full
factors (`vl_adapter_compacter`).  As A starts tiny, the adapters start near zero, but not at it.

# N adapters of one tower, T terms (n), I = O = n, H bottleneck width, D tower width
"""

from collections.abc import Sequence
from typing import Literal

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.adapter_config import CompacterConfig, Tower
from workers.methods.adapters import AdapterMethod, Bottlenecks
from workers.methods.kronecker import kronecker_sum
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet


class Compacter(AdapterMethod):
    """The factors of one group.  A set: `rule` [n, n, n], or one per weight [N, n, n, n]; per weight `left` and
    `right`, or `full`; biases."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: CompacterConfig, *, seed: int):
        self._compacter = config
        super().__init__(clip, tasks, config, seed=seed)

    def new_adapters(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Rules from N(0, rule_std^2), factors Glorot-uniform with gain sqrt(2), biases zero."""
        n, rank, std = self._compacter.num_terms, self._compacter.rank, self._compacter.rule_std
        made: ParameterSet = {}
        if self._compacter.share_rule:
            made["rule"] = std * torch.randn(n, n, n, generator=rng)
        for tower, (num, width, bottleneck) in self.sizes.items():
            for name, read, written in (("down", width, bottleneck), ("up", bottleneck, width)):
                if not self._compacter.share_rule:
                    made[f"{name}_rule_{tower}"] = std * torch.randn(num, n, n, n, generator=rng)
                if rank is None:
                    made[f"{name}_full_{tower}"] = _glorot((num, n, read // n, written // n), rng)
                else:
                    made[f"{name}_left_{tower}"] = _glorot((num, n, read // n, rank), rng)
                    made[f"{name}_right_{tower}"] = _glorot((num, n, rank, written // n), rng)
                made[f"{name}_bias_{tower}"] = torch.zeros(num, written)
        return made

    def bottlenecks(self, tower: Tower, sets: Sequence[ParameterSet]) -> Bottlenecks:
        """The one set's weights, multiplied out: they are small beside what they are applied to."""
        (part,) = sets
        return Bottlenecks(
            down_NHD=self._weight("down", tower, part).transpose(1, 2),
            down_bias_NH=part[f"down_bias_{tower}"],
            up_NDH=self._weight("up", tower, part).transpose(1, 2),
            up_bias_ND=part[f"up_bias_{tower}"],
        )

    def _weight(self, name: Literal["down", "up"], tower: Tower, part: ParameterSet) -> torch.Tensor:
        """[N, read, written], as the paper writes it: y = x W."""
        if self._compacter.rank is None:
            factors = part[f"{name}_full_{tower}"]
        else:
            factors = part[f"{name}_left_{tower}"] @ part[f"{name}_right_{tower}"]
        rule = part["rule"] if self._compacter.share_rule else part[f"{name}_rule_{tower}"]
        return kronecker_sum(rule.expand(len(factors), -1, -1, -1), factors)


def _glorot(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Uniform within sqrt(2) * sqrt(6 / (fan_in + fan_out)) of the last two dimensions."""
    return (2 * torch.rand(shape, generator=rng) - 1) * (2 * 6 / (shape[-2] + shape[-1])) ** 0.5
