"""CAVL's Adapter I, the shortcut block (arXiv 2304.04399, section 4.2.2), carried over to CLIP's two towers:

    s = P(pool(block(x)))        x the tower's embedded input, pool and projection P the frozen tower's own
    f* = W [f ; s] + b           f the frozen tower's features; W = [I | 0] and b = 0 at the start

It starts as CLIP because W is blind to s; the block itself is drawn like a block of CLIP.  Were its last layers zero as
well, nothing in it would learn before the third step: W's right half needs an s, and the block needs that half.
No gradient passes through the frozen towers' blocks, whose cost is then a forward pass.

    # B rows, L positions, D tower width, k bottleneck width, E joint embedding
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from workers.clip.blocks import attention
from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits, Rows, Side
from workers.methods.method import TaskInfo, TowerEdits
from workers.methods.parameter_sets import ParameterSet, SetMethod
from workers.methods.shortcut_config import ShortcutConfig


class Shortcut(SetMethod):
    """A set: per tower the block (`TOWER.attn.*`, `.ln_1.*`, ..., or `.down` and `.up`) and `TOWER.output.*`."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: ShortcutConfig, *, seed: int):
        self._shortcut = config
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Blocks drawn as CLIP draws its own, output blocks that pass the tower's features on."""
        made = {}
        identity = torch.cat([torch.eye(self.clip.embed_dim), torch.zeros((self.clip.embed_dim,) * 2)], dim=1)
        for name, width in (("image", self.clip.image.width), ("text", self.clip.text.width)):
            block = (
                _new_mlp(width, self._shortcut.hidden(width), rng) if self._shortcut.lite else _new_block(width, rng)
            )
            made |= {f"{name}.{part}": tensor for part, tensor in block.items()}
            made |= {f"{name}.output.weight": identity.clone(), f"{name}.output.bias": torch.zeros(len(identity))}
        return made

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """One copy per task, or one in all if no task has a set of its own."""
        copies, index = self.copies(tasks)
        sets = [part for (part,) in copies]
        image = self._side([_of_tower(part, "image.") for part in sets], self.clip.image.num_heads)
        text = self._side([_of_tower(part, "text.") for part in sets], self.clip.text.num_heads)
        return TowerEdits(image=Edits(side=image), text=Edits(side=text), copies=index)

    def _side(self, sets: Sequence[ParameterSet], num_heads: int) -> Side:
        def block(x_BLD: torch.Tensor, mask: torch.Tensor | None, rows: Rows) -> torch.Tensor:
            outputs = [
                _mlp(sets[copy], part, mask) if self._shortcut.lite else _block(sets[copy], part, mask, num_heads)
                for copy, part in rows.split(x_BLD)
            ]
            return torch.cat(outputs)

        def fuse(features_BE: torch.Tensor, side_BE: torch.Tensor, rows: Rows) -> torch.Tensor:
            both = torch.cat([features_BE, side_BE], dim=1)
            return torch.cat(
                [
                    F.linear(part, sets[copy]["output.weight"], sets[copy]["output.bias"])
                    for copy, part in rows.split(both)
                ]
            )

        return Side(block, fuse)


def _of_tower(part: ParameterSet, tower: str) -> ParameterSet:
    return {name.removeprefix(tower): tensor for name, tensor in part.items() if name.startswith(tower)}


def _new_block(width: int, rng: torch.Generator) -> ParameterSet:
    """A pre-LN transformer block of a tower, 12 D^2 + 13 D numbers, with open_clip's initial scales for one layer."""
    stds = {
        "attn.in_proj": (3 * width, width, width**-0.5),
        "attn.out_proj": (width, width, (2 * width) ** -0.5),
        "mlp.c_fc": (4 * width, width, (2 * width) ** -0.5),
        "mlp.c_proj": (width, 4 * width, (2 * width) ** -0.5),
    }
    made = {}
    for name, (rows, columns, std) in stds.items():
        made[f"{name}.weight"] = std * torch.randn(rows, columns, generator=rng)
        made[f"{name}.bias"] = torch.zeros(rows)
    for name in ("ln_1", "ln_2"):
        made |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    return made


def _new_mlp(width: int, hidden: int, rng: torch.Generator) -> ParameterSet:
    """Two layers without biases, drawn as nn.Linear draws them, 2 D k numbers."""
    return {
        "down": (2 * torch.rand(hidden, width, generator=rng) - 1) / math.sqrt(width),
        "up": (2 * torch.rand(width, hidden, generator=rng) - 1) / math.sqrt(hidden),
    }


def _block(part: ParameterSet, x_BLD: torch.Tensor, mask: torch.Tensor | None, num_heads: int) -> torch.Tensor:
    """x + attention(norm(x)), then x + MLP(norm(x)), in the dtype of x."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, part[f"{name}.weight"].to(x.dtype), part[f"{name}.bias"].to(x.dtype))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = part[f"{name}.weight"].to(x.dtype), part[f"{name}.bias"].to(x.dtype)
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    projected = linear("attn.in_proj", norm("ln_1", x_BLD)).unflatten(-1, (3, num_heads, -1))
    q_BHLD, k_BHLD, v_BHLD = projected.permute(2, 0, 3, 1, 4)
    x_BLD = x_BLD + linear("attn.out_proj", attention(q_BHLD, k_BHLD, v_BHLD, mask).transpose(1, 2).flatten(2))
    return x_BLD + linear("mlp.c_proj", F.gelu(linear("mlp.c_fc", norm("ln_2", x_BLD))))


def _mlp(part: ParameterSet, x_BLD: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """x + up(GELU(down(mean of the positions that each may see))): alone, CLS is the same for every image."""
    seen_BLD = x_BLD.mean(dim=1, keepdim=True) if mask is None else torch.softmax(mask, dim=-1) @ x_BLD
    down, up = part["down"].to(x_BLD.dtype), part["up"].to(x_BLD.dtype)
    return x_BLD + F.linear(F.gelu(F.linear(seen_BLD, down)), up)
