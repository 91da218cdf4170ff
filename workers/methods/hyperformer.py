"""Hyperformer (Mahabadi, Ruder, Dehghani, Henderson: ACL 2021, section 3), as VL-Adapter ports it.

    u_{T,l} = LayerNorm(MLP([z_T ; e_l]))        z_T: what a task is, e_l: where a layer is
    [W_down, b_down, W_up, b_up] = H_place u_{T,l} + c_place        one (H, c) for attention, one for the MLP

The networks of one tower write the adapters of all its layers and of all tasks.  The adapters it starts with are small,
but not zero: zero-shot is only near.

# K layers, N adapters (layers x places), I inputs of the MLP, E size of an embedding, P of a code, W of one written
# adapter, H bottleneck width, D tower width
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.methods.adapter_config import HyperformerConfig, Tower
from workers.methods.adapters import AdapterMethod, Bottlenecks, linear_init
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet

WRITER_STD = 0.01
"""Standard deviation of H at the start."""


class Hyperformer(AdapterMethod):
    """The networks of one group and its tasks' embeddings."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: HyperformerConfig, *, seed: int):
        self._hyper = config
        super().__init__(clip, tasks, config, seed=seed)

    def owners(self) -> tuple[bool, bool]:
        """Every task has an embedding, whoever has the networks."""
        return self._hyper.sharing != "alone", True

    def new_adapters(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """A tower's networks, or the embedding that tells them a task; a task alone has both."""
        made: ParameterSet = {}
        for tower in self.sizes:
            if task is None or self._hyper.sharing == "alone":
                made |= {f"{name}_{tower}": tensor for name, tensor in self._networks(tower, rng).items()}
            if task is not None:
                made[f"task_{tower}"] = torch.randn(self._hyper.embedding_dim, generator=rng)
        return made

    def bottlenecks(self, tower: Tower, sets: Sequence[ParameterSet]) -> Bottlenecks:
        """The adapters that the networks write for one task."""
        suffix = f"_{tower}"
        own = {name.removesuffix(suffix): t for part in sets for name, t in part.items() if name.endswith(suffix)}
        layers_KE = own["layers"]
        inputs_KI = torch.cat([own["task"].expand_as(layers_KE), layers_KE], dim=1)
        hidden = F.relu(F.linear(inputs_KI, own["join_1"], own["join_1_bias"]))
        code_KP = F.linear(hidden, own["join_2"], own["join_2_bias"])
        code_KP = F.layer_norm(code_KP, code_KP.shape[-1:], own["norm"], own["norm_bias"])
        num, width, bottleneck = self.sizes[tower]
        written_NW = F.linear(code_KP, own["write"], own["write_bias"]).view(num, -1)
        down, down_bias, up, up_bias = written_NW.split(
            [bottleneck * width, bottleneck, width * bottleneck, width], dim=1
        )
        return Bottlenecks(down.view(num, bottleneck, width), down_bias, up.view(num, width, bottleneck), up_bias)

    def _networks(self, tower: Tower, rng: torch.Generator) -> ParameterSet:
        num, width, bottleneck = self.sizes[tower]
        places = len(self.spec.where)
        size, hidden, code = self._hyper.embedding_dim, self._hyper.hidden_dim, self._hyper.code_dim
        written = places * (2 * width * bottleneck + bottleneck + width)
        return {
            "layers": torch.randn(num // places, size, generator=rng),
            "join_1": linear_init((hidden, 2 * size), 2 * size, rng),
            "join_1_bias": linear_init((hidden,), 2 * size, rng),
            "join_2": linear_init((code, hidden), hidden, rng),
            "join_2_bias": linear_init((code,), hidden, rng),
            "norm": torch.ones(code),
            "norm_bias": torch.zeros(code),
            "write": WRITER_STD * torch.randn(written, code, generator=rng),
            "write_bias": torch.zeros(written),
        }
