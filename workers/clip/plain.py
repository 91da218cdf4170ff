"""open_clip's own blocks with the seam around them: the slow path, and the yardstick the fast one is tested against."""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from workers.clip.seam import Edits, Rows


def run_plain_block(
    block: nn.Module,
    layer: int,
    x_BLD: torch.Tensor,
    mask: torch.Tensor | None,
    edits: Edits,
    rows: Rows,
) -> torch.Tensor:
    """One block over all positions, [B, L, D] -> [B, L, D].  With nothing plugged in it is open_clip's forward itself.

    `mask` is open_clip's additive attention mask, [L, L] or None.
    """
    prefix = f"transformer.resblocks.{layer}."
    overrides = {
        name.removeprefix(prefix): value.to(x_BLD.dtype)
        for name, value in edits.overrides.items()
        if name.startswith(prefix)
    }
    if edits.branch is None and not overrides:
        return block(x_BLD, attn_mask=mask)
    split = _Branches(block)
    named = {f"block.{name}": value for name, value in overrides.items()}
    for branch in ("attn", "mlp"):
        output = functional_call(split, named, (branch, x_BLD, mask))
        x_BLD = x_BLD + (output if edits.branch is None else edits.branch(layer, branch, output, rows))
    return x_BLD


class _Branches(nn.Module):
    """The two residual branches of an open_clip block, each by itself (either kind of block)."""

    def __init__(self, block: Any):
        super().__init__()
        self.block = block

    def forward(self, branch: str, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        block = self.block
        if branch == "mlp":
            return block.ls_2(block.mlp(block.ln_2(x)))
        if hasattr(block, "ln_attn"):  # open_clip's CustomResidualAttentionBlock
            return block.ls_1(block.ln_attn(block.attn(block.ln_1(x), attn_mask=mask)))
        return block.ls_1(block.attention(q_x=block.ln_1(x), attn_mask=mask))
