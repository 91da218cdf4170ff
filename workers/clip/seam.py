"""What a method may plug into a frozen tower, and nothing else.

Three things carry every parameter-efficient method: prompt tokens in front of a layer, a function on the output of the
attention or MLP branch, and tensors that stand in for frozen weights.  A tower knows none of the methods; a method
knows none of the towers' insides beyond these three.

    # C copies of a method's parameters (tasks, groups), B rows (images or class sentences) of one pass
    # K prompted layers, M prompt tokens per layer, L positions, D tower width
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

Branch = Callable[[int, Literal["attn", "mlp"], torch.Tensor, torch.Tensor], torch.Tensor]
"""`branch(layer, "attn" | "mlp", output_BLD, copy_B) -> output_BLD`, applied before the residual addition.

It must treat positions alike (an adapter, a scale): towers call it on prefixes, on suffixes and on single positions.
`copy_B` says which copy every row belongs to."""


@dataclass(frozen=True)
class Edits:
    """What one method plugs into one tower for one pass."""

    prompts_CKMD: torch.Tensor | None = None
    """Prompt tokens of every copy and prompted layer.  They stand after the first token (CLS or start-of-text); in the
    first K layers their slots are refilled, after that they are carried on."""
    branch: Branch | None = None
    """Called on each branch's output."""
    overrides: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Tensors used in place of the tower's own, by the tower's parameter names (`transformer.resblocks.0.ln_1.weight`).
    One set per pass: a method with several copies of them runs one copy per pass."""

    @property
    def depth(self) -> int:
        """Prompted layers."""
        return 0 if self.prompts_CKMD is None else self.prompts_CKMD.shape[1]

    @property
    def num_tokens(self) -> int:
        """Prompt tokens per layer."""
        return 0 if self.prompts_CKMD is None else self.prompts_CKMD.shape[2]


NO_EDITS = Edits()
