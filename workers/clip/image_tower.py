"""The frozen image tower with seams.

# B images, C copies, K prompted layers, M prompt tokens, L tokens (CLS and patches), D width, E joint embedding
"""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from workers.clip.blocks import Blocks, attention, layer_norm, layer_norm_parameters
from workers.clip.plain import run_plain_block
from workers.clip.seam import NO_EDITS, Edits, Rows


class ImageTower:
    """open_clip's VisionTransformer, run block by block.  Its own parameters never receive a gradient."""

    def __init__(self, visual: Any, *, fast: bool):
        self._visual = visual
        self._fast = fast
        self.width: int = visual.transformer.width
        self.layers: int = len(visual.transformer.resblocks)
        self.num_heads: int = visual.transformer.resblocks[0].attn.num_heads
        self.patch_size: int = visual.conv1.kernel_size[0]
        self.dtype: torch.dtype = visual.conv1.weight.dtype

    def __call__(
        self,
        pixels: torch.Tensor,
        edits: Edits = NO_EDITS,
        rows: Rows | None = None,
        *,
        plain: bool = False,
    ) -> torch.Tensor:
        """Image features before normalisation, fp32.  pixels: [B, 3, H, W], normalised -> [B, E].

        `rows` says which copy of the edits every image runs under (the first, if left out).

        `plain` runs open_clip's own blocks over all tokens; otherwise the same features are computed with the
        prompts as keys and values only, and with the last block for the pooled token alone.
        """
        rows = rows or Rows.of([(0, len(pixels))], pixels.device)
        x = self._embed(pixels.to(self.dtype), edits)
        run = self._run_plain if plain or not self._fast else self._run_fast
        features = run(x, edits, rows).float()
        if edits.side is None:
            return features
        beside = self._pool(edits.side.block(x, None, rows), edits).float()
        return edits.side.fuse(features, beside, rows)

    def parameters(self) -> dict[str, torch.Tensor]:
        """The tower's own tensors, by the names that overrides go by."""
        return {name: parameter.detach() for name, parameter in self._visual.named_parameters()}

    def layer_norms(self) -> frozenset[str]:
        """Which of `parameters` belong to LayerNorms."""
        return layer_norm_parameters(self._visual)

    def pre_norm(self, x: torch.Tensor) -> torch.Tensor:
        """The LayerNorm between embedding and first block, for tokens that are to stand before it."""
        return layer_norm(x, self._visual.ln_pre, "ln_pre", {})

    def _embed(self, pixels: torch.Tensor, edits: Edits) -> torch.Tensor:
        embed = _Call(self._visual, "_embeds")
        own = {name: value.to(self.dtype) for name, value in edits.overrides.items() if ".resblocks." not in name}
        return (
            functional_call(
                embed,
                {f"owner.{name}": value for name, value in own.items()},
                (pixels,),
            )
            if own
            else embed(pixels)
        )

    def _run_plain(self, x: torch.Tensor, edits: Edits, rows: Rows) -> torch.Tensor:
        num_tokens = edits.num_tokens
        for layer, block in enumerate(self._visual.transformer.resblocks):
            if edits.prompts_CKMD is not None and layer < edits.depth:
                prompts = edits.prompts_CKMD[rows.index_B, layer].to(x.dtype)
                rest = x[:, 1:] if layer == 0 else x[:, 1 + num_tokens :]
                x = torch.cat([x[:, :1], prompts, rest], dim=1)
            x = run_plain_block(block, layer, x, None, edits, rows)
        if num_tokens:
            x = torch.cat([x[:, :1], x[:, 1 + num_tokens :]], dim=1)
        return self._pool(x, edits)

    def _run_fast(self, x: torch.Tensor, edits: Edits, rows: Rows) -> torch.Tensor:
        blocks = Blocks(self._visual.transformer.resblocks, edits.overrides, edits.branch)
        length = x.shape[1]
        pools_one_token = self._visual.pool_type == "tok"
        for layer in range(len(blocks)):
            last = layer == len(blocks) - 1
            if layer == edits.depth - 1 and not last:  # their outputs are carried on: from here on they are tokens
                assert edits.prompts_CKMD is not None
                x = torch.cat([x, edits.prompts_CKMD[rows.index_B, layer].to(x.dtype)], dim=1)
            normed = blocks.norm(layer, "ln_1", x)
            if last and pools_one_token:
                query = blocks.query(layer, normed[:, :1])
                key, value = blocks.key_value(layer, normed)
                x = x[:, :1]
            else:
                query, key, value = blocks.query_key_value(layer, normed)
            if edits.prompts_CKMD is not None and (layer < edits.depth - 1 or (last and layer < edits.depth)):
                key, value = self._with_prompts(blocks, layer, edits.prompts_CKMD[:, layer], rows, key, value)
            attended = attention(
                blocks.heads(layer, query),
                blocks.heads(layer, key),
                blocks.heads(layer, value),
            )
            x = blocks.finish(layer, x, attended.transpose(1, 2).flatten(2), rows)
        return self._pool(x[:, :length], edits)

    def _with_prompts(
        self,
        blocks: Blocks,
        layer: int,
        prompts_CMD: torch.Tensor,
        rows: Rows,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prompt_key, prompt_value = blocks.key_value(layer, blocks.norm(layer, "ln_1", prompts_CMD.to(key.dtype)))
        return torch.cat([key, prompt_key[rows.index_B]], dim=1), torch.cat([value, prompt_value[rows.index_B]], dim=1)

    def _pool(self, x: torch.Tensor, edits: Edits) -> torch.Tensor:
        """[B, L, D] -> [B, E]: as open_clip pools, with overrides for the last norm and the projection."""
        if self._visual.final_ln_after_pool:
            pooled = x[:, 0] if self._visual.pool_type == "tok" else x[:, 1:].mean(dim=1)
            pooled = layer_norm(pooled, self._visual.ln_post, "ln_post", edits.overrides)
        else:
            normed = layer_norm(
                x[:, :1] if self._visual.pool_type == "tok" else x,
                self._visual.ln_post,
                "ln_post",
                edits.overrides,
            )
            pooled = normed[:, 0] if self._visual.pool_type == "tok" else normed[:, 1:].mean(dim=1)
        if self._visual.proj is None:
            return pooled
        return pooled @ edits.overrides.get("proj", self._visual.proj).to(pooled.dtype)


class _Call(nn.Module):
    """Calls one method of a module, so that `functional_call` can stand tensors in for its parameters."""

    def __init__(self, owner: nn.Module, method: str):
        super().__init__()
        self.owner = owner
        self._method = method

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return getattr(self.owner, self._method)(*args)
