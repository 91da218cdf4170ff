"""One residual attention block of a frozen tower, computed with only what the pass needs.

`Blocks` is the towers' own loop body: it reads open_clip's parameters (or the overrides that stand in for them) and
computes what `ResidualAttentionBlock.forward` computes, with two freedoms that the module does not give: keys and
values may come from more tokens than queries do, and the queries may be a few positions only.  Both are exact: a
discarded output needs no query, and a prompt's slot is refilled before anyone reads it.

    # B rows, H heads, L query positions, S key positions, D width
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from workers.clip.seam import Branch, Rows

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attention(
    q_BHLD: torch.Tensor,
    k_BHSD: torch.Tensor,
    v_BHSD: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention, [B, H, L, D/H].  `mask` is additive and broadcasts to [B, H, L, S].

    Chosen by measurement (bench/attention.py): on a CPU three plain operations beat torch's fused kernel 3 to 9 times
    in bf16; in fp32, and on a GPU, the fused kernel is the faster one.
    """
    if q_BHLD.device.type != "cpu" or q_BHLD.dtype == torch.float32:
        return F.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, attn_mask=mask)
    scores = (q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHSD.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1) @ v_BHSD


class Blocks:
    """The residual blocks of one tower, by parameter name, with overrides standing in for frozen weights."""

    def __init__(
        self,
        resblocks: Any,
        overrides: Mapping[str, torch.Tensor],
        branch: Branch | None,
    ):
        self._blocks: Any = resblocks
        self._overrides = overrides
        self._branch = branch
        self._cast: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def query(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Queries of normed tokens, [..., D] -> [..., D]."""
        return self._project(layer, x, slice(0, x.shape[-1]))

    def key_value(self, layer: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of normed tokens, [..., D] -> two of [..., D]."""
        key, value = self._project(layer, x, slice(x.shape[-1], 3 * x.shape[-1])).chunk(2, dim=-1)
        return key, value

    def query_key_value(self, layer: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of normed tokens, [..., D] -> three of [..., D]."""
        query, key, value = self._project(layer, x, slice(0, 3 * x.shape[-1])).chunk(3, dim=-1)
        return query, key, value

    def norm(self, layer: int, name: Literal["ln_1", "ln_2"], x: torch.Tensor) -> torch.Tensor:
        """The block's LayerNorm `ln_1` or `ln_2`."""
        return layer_norm(
            x,
            getattr(self._blocks[layer], name),
            f"transformer.resblocks.{layer}.{name}",
            self._overrides,
        )

    def heads(self, layer: int, x_BLD: torch.Tensor) -> torch.Tensor:
        """[B, L, D] -> [B, H, L, D/H]."""
        rows, length, width = x_BLD.shape
        num_heads = self._blocks[layer].attn.num_heads
        return x_BLD.view(rows, length, num_heads, width // num_heads).transpose(1, 2)

    def finish(self, layer: int, x: torch.Tensor, attended: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Adds the attention branch, then the MLP branch.  x and attended: [B, L, D] -> [B, L, D]."""
        block = self._blocks[layer]
        out = self._linear(layer, "attn.out_proj", block.attn.out_proj, attended)
        x = x + self._branch_output(layer, "attn", self._scale(layer, "ls_1", out), rows)
        hidden = block.mlp.gelu(self._linear(layer, "mlp.c_fc", block.mlp.c_fc, self.norm(layer, "ln_2", x)))
        out = self._linear(layer, "mlp.c_proj", block.mlp.c_proj, hidden)
        return x + self._branch_output(layer, "mlp", self._scale(layer, "ls_2", out), rows)

    def _project(self, layer: int, x: torch.Tensor, rows: slice) -> torch.Tensor:
        weight = self._weight(layer, "attn.in_proj_weight", self._blocks[layer].attn.in_proj_weight)
        bias = self._weight(layer, "attn.in_proj_bias", self._blocks[layer].attn.in_proj_bias)
        return F.linear(x, weight[rows], bias[rows])

    def _linear(self, layer: int, name: str, linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return F.linear(
            x,
            self._weight(layer, f"{name}.weight", linear.weight),
            self._weight(layer, f"{name}.bias", linear.bias),
        )

    def _scale(self, layer: int, name: str, x: torch.Tensor) -> torch.Tensor:
        scale = getattr(self._blocks[layer], name)
        return x if isinstance(scale, nn.Identity) else x * self._weight(layer, f"{name}.gamma", scale.gamma)

    def _branch_output(
        self,
        layer: int,
        name: Literal["attn", "mlp"],
        x: torch.Tensor,
        rows: Rows,
    ) -> torch.Tensor:
        return x if self._branch is None else self._branch(layer, name, x, rows)

    def _weight(self, layer: int, name: str, own: torch.Tensor) -> torch.Tensor:
        """The tower's own, or the override, cast once per pass however often it is used."""
        name = f"transformer.resblocks.{layer}.{name}"
        if name not in self._overrides:
            return own
        if name not in self._cast:
            self._cast[name] = self._overrides[name].to(own.dtype)
        return self._cast[name]


def layer_norm_parameters(module: nn.Module) -> frozenset[str]:
    """Names of the parameters of all LayerNorms in a module."""
    return frozenset(
        f"{name}.{own}"
        for name, norm in module.named_modules()
        if isinstance(norm, nn.LayerNorm)
        for own, _ in norm.named_parameters()
    )


def layer_norm(x: torch.Tensor, norm: Any, name: str, overrides: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tower's LayerNorm `norm` called `name`, with overrides for its weight and bias."""
    if isinstance(norm, nn.Identity):
        return x
    assert isinstance(norm, nn.LayerNorm)
    weight = overrides.get(f"{name}.weight", norm.weight).to(x.dtype)
    bias = overrides.get(f"{name}.bias", norm.bias).to(x.dtype)
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
