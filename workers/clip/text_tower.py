"""The frozen text tower with seams.

The fast path uses two facts.  The tower is causal, so nothing after a sentence's end matters, and everything before the
first differing token is the same for all classes of a task: the start token, the prompts and the leading template words
are computed once per segment and the classes attend to them.  A class then costs its own few tokens, not 77.

    # S segments (a class list under one copy's prompts), R rows (class sentences of all segments), C copies
    # K prompted layers, M prompt tokens, P shared prefix tokens, L positions of a row, H heads, D width, E joint
    # embedding
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workers.clip.blocks import Blocks, attention, layer_norm
from workers.clip.plain import run_plain_block
from workers.clip.seam import NO_EDITS, Edits
from workers.clip.tokens import ClassList


class TextTower:
    """open_clip's text transformer, flat or under `.text`.  Its own parameters never receive a gradient."""

    def __init__(self, owner: Any, *, pool_type: str, eos_id: int | None, fast: bool):
        self._owner = owner
        self._pool_type = pool_type
        self._eos_id = eos_id
        self._fast = fast
        self.width: int = owner.transformer.width
        self.layers: int = len(owner.transformer.resblocks)
        self.context_length: int = owner.positional_embedding.shape[0]
        self.dtype: torch.dtype = owner.transformer.get_cast_dtype()

    def find_end(self, ids_RL: torch.Tensor) -> torch.Tensor:
        """Position of the pooled token of each sentence, [R, L] -> [R]."""
        if self._pool_type == "argmax":
            return ids_RL.argmax(dim=-1)
        if self._pool_type == "eos":
            return (ids_RL == self._eos_id).int().argmax(dim=-1)
        if self._pool_type == "last":  # the pooled position is the last of the padded context; words end before it
            return (ids_RL != 0).int().cumsum(dim=-1).argmax(dim=-1)
        return torch.zeros(len(ids_RL), dtype=torch.long)

    def __call__(
        self,
        lists: Sequence[ClassList],
        edits: Edits = NO_EDITS,
        copies: Sequence[int] | None = None,
        *,
        plain: bool = False,
    ) -> list[torch.Tensor]:
        """Text features before normalisation, fp32: one [classes, E] tensor per class list.

        `copies[s]` is the copy of the edits that class list s runs under (the first, if left out).
        `plain` runs open_clip's own blocks over the full padded context.
        """
        copies = list(copies) if copies is not None else [0] * len(lists)
        assert len(copies) == len(lists) > 0
        run = self._run_plain if plain or not self._fast else self._run_fast
        pooled = run(lists, edits, copies)
        features = layer_norm(pooled, self._owner.ln_final, "ln_final", edits.overrides)
        return list(self._project(features, edits).float().split([len(texts) for texts in lists]))

    def _run_plain(self, lists: Sequence[ClassList], edits: Edits, copies: list[int]) -> torch.Tensor:
        num_tokens = edits.num_tokens
        ids = torch.cat([texts.ids_RL for texts in lists])[:, : self.context_length - num_tokens]
        copy_R = torch.repeat_interleave(torch.tensor(copies, device=ids.device), _counts(lists, ids.device))
        words = self._embed(ids, edits)
        positions = self._positions(edits)
        mask = self._owner.attn_mask
        if mask is not None:
            mask = mask.to(words.dtype)
        x = words if num_tokens else words + positions[: words.shape[1]]
        for layer, block in enumerate(self._owner.transformer.resblocks):
            if edits.prompts_CKMD is not None and layer < edits.depth:
                prompts = edits.prompts_CKMD[copy_R, layer].to(x.dtype)
                rest = x[:, 1:] if layer == 0 else x[:, 1 + num_tokens :]
                x = torch.cat([x[:, :1], prompts, rest], dim=1)
                if layer == 0:
                    x = x + positions[: x.shape[1]]
            x = run_plain_block(block, layer, x, mask, edits, copy_R)
        if self._pool_type == "first":
            return x[:, 0]
        if self._pool_type == "last":
            return x[:, -1]
        end = torch.cat([texts.end_R for texts in lists]) + num_tokens
        return x[torch.arange(len(x), device=x.device), end]

    def _run_fast(self, lists: Sequence[ClassList], edits: Edits, copies: list[int]) -> torch.Tensor:
        blocks = Blocks(self._owner.transformer.resblocks, edits.overrides, edits.branch)
        layout = _Layout.of(lists, copies, edits.num_tokens)
        positions = self._positions(edits)
        num_tokens, num_shared = edits.num_tokens, layout.num_shared
        prefix = self._embed(layout.prefix_ids_SP, edits)
        prefix = prefix + torch.cat([positions[:1], positions[1 + num_tokens : num_tokens + num_shared]])
        rows = self._embed(layout.row_ids_RL, edits)
        rows = rows + positions[num_tokens + num_shared :][: rows.shape[1]]
        prompt_positions = positions[1 : 1 + num_tokens]
        prefix_mask = _causal(num_shared, num_tokens, rows)
        row_mask = _causal(rows.shape[1], 0, rows)
        for layer in range(len(blocks)):
            last = layer == len(blocks) - 1
            prompts = None
            if edits.prompts_CKMD is not None and layer < edits.depth:
                prompts = edits.prompts_CKMD[layout.copy_S, layer].to(rows.dtype)
                if layer == 0:
                    prompts = prompts + prompt_positions
                if layer == edits.depth - 1 and not last:  # their outputs are carried on: from here on they are tokens
                    prefix, prompts = (
                        torch.cat([prefix[:, :1], prompts, prefix[:, 1:]], dim=1),
                        None,
                    )
                    prefix_mask = _causal(prefix.shape[1], 0, rows)
            normed_prefix = blocks.norm(layer, "ln_1", prefix)
            normed_rows = blocks.norm(layer, "ln_1", rows)
            prefix_query, prefix_key, prefix_value = blocks.query_key_value(layer, normed_prefix)
            if prompts is not None:
                prompt_key, prompt_value = blocks.key_value(layer, blocks.norm(layer, "ln_1", prompts))
                prefix_key = torch.cat([prefix_key[:, :1], prompt_key, prefix_key[:, 1:]], dim=1)
                prefix_value = torch.cat([prefix_value[:, :1], prompt_value, prefix_value[:, 1:]], dim=1)
            row_key, row_value = blocks.key_value(layer, normed_rows)
            mask = row_mask
            if last:  # the pooled position alone
                at = layout.end_R[:, None, None].expand(-1, 1, rows.shape[-1])
                rows, normed_rows = rows.gather(1, at), normed_rows.gather(1, at)
                mask = row_mask[layout.end_R][:, None, None]
            row_query = blocks.query(layer, normed_rows)
            attended = _attend_prefix_and_rows(
                blocks,
                layer,
                layout,
                row_query,
                prefix_key,
                prefix_value,
                row_key,
                row_value,
                mask,
            )
            if not last:
                attended_prefix = attention(
                    blocks.heads(layer, prefix_query),
                    blocks.heads(layer, prefix_key),
                    blocks.heads(layer, prefix_value),
                    prefix_mask,
                )
                prefix = blocks.finish(
                    layer,
                    prefix,
                    attended_prefix.transpose(1, 2).flatten(2),
                    layout.copy_S,
                )
            rows = blocks.finish(layer, rows, attended, layout.copy_R)
        return rows[:, 0]

    def _embed(self, ids: torch.Tensor, edits: Edits) -> torch.Tensor:
        table = edits.overrides.get("token_embedding.weight", self._owner.token_embedding.weight)
        return nn.functional.embedding(ids, table).to(self.dtype)

    def _positions(self, edits: Edits) -> torch.Tensor:
        return edits.overrides.get("positional_embedding", self._owner.positional_embedding).to(self.dtype)

    def _project(self, features: torch.Tensor, edits: Edits) -> torch.Tensor:
        projection = self._owner.text_projection
        if projection is None:
            return features
        if isinstance(projection, nn.Linear):
            weight = edits.overrides.get("text_projection.weight", projection.weight).to(features.dtype)
            bias = None if projection.bias is None else edits.overrides.get("text_projection.bias", projection.bias)
            return nn.functional.linear(features, weight, None if bias is None else bias.to(features.dtype))
        return features @ edits.overrides.get("text_projection", projection).to(features.dtype)


@dataclass(frozen=True)
class _Layout:
    """Where prefixes and rows of one pass lie.  Rows stand segment by segment; `grid_R` places them in [S, most
    rows]."""

    prefix_ids_SP: torch.Tensor
    row_ids_RL: torch.Tensor
    end_R: torch.Tensor
    copy_S: torch.Tensor
    copy_R: torch.Tensor
    grid_R: torch.Tensor | None
    most_rows: int
    num_shared: int

    @classmethod
    def of(cls, lists: Sequence[ClassList], copies: list[int], num_tokens: int) -> "_Layout":
        device = lists[0].ids_RL.device
        num_shared = min(texts.num_shared for texts in lists)
        end_R = torch.cat([texts.end_R for texts in lists]) - num_shared
        stop = num_shared + int(end_R.max()) + 1
        counts = _counts(lists, device)
        segment_R = torch.repeat_interleave(torch.arange(len(lists), device=device), counts)
        copy_S = torch.tensor(copies, device=device)
        most_rows = int(counts.max())
        grid_R = None
        if int(counts.min()) != most_rows:
            first_S = torch.cumsum(counts, 0) - counts
            grid_R = segment_R * most_rows + torch.arange(len(segment_R), device=device) - first_S[segment_R]
        return cls(
            prefix_ids_SP=torch.stack([texts.ids_RL[0, :num_shared] for texts in lists]),
            row_ids_RL=torch.cat([texts.ids_RL[:, num_shared:stop] for texts in lists]),
            end_R=end_R,
            copy_S=copy_S,
            copy_R=copy_S[segment_R],
            grid_R=grid_R,
            most_rows=most_rows,
            num_shared=num_shared,
        )


def _attend_prefix_and_rows(
    blocks: Blocks,
    layer: int,
    layout: _Layout,
    query: torch.Tensor,
    prefix_key: torch.Tensor,
    prefix_value: torch.Tensor,
    row_key: torch.Tensor,
    row_value: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Every row attends to its segment's prefix and to itself.  query: [R, L, D] -> [R, L, D].

    One softmax over both; the prefix's keys are never copied per row: all rows of a segment meet them in one product.
    """
    q = blocks.heads(layer, query) * (query.shape[-1] // blocks.heads(layer, query).shape[1]) ** -0.5
    rows, num_heads, length, head = q.shape
    k_prefix, v_prefix = (
        blocks.heads(layer, prefix_key),
        blocks.heads(layer, prefix_value),
    )
    grid = _to_grid(q, layout)  # [S, H, most_rows * L, D/H]
    to_prefix = _from_grid(grid @ k_prefix.transpose(-2, -1), layout, rows, length)
    to_self = q @ blocks.heads(layer, row_key).transpose(-2, -1) + mask
    weights = torch.softmax(torch.cat([to_prefix, to_self], dim=-1), dim=-1)
    prefix_length = k_prefix.shape[2]
    from_prefix = _from_grid(_to_grid(weights[..., :prefix_length], layout) @ v_prefix, layout, rows, length)
    from_self = weights[..., prefix_length:] @ blocks.heads(layer, row_value)
    return (from_prefix + from_self).transpose(1, 2).reshape(rows, length, num_heads * head)


def _to_grid(x_RHLX: torch.Tensor, layout: _Layout) -> torch.Tensor:
    """[R, H, L, X] -> [S, H, most_rows * L, X], with zero rows where a segment has fewer classes than another."""
    _, num_heads, length, last = x_RHLX.shape
    if layout.grid_R is not None:
        full = x_RHLX.new_zeros(len(layout.copy_S) * layout.most_rows, num_heads, length, last)
        x_RHLX = full.index_copy(0, layout.grid_R, x_RHLX)
    grid = x_RHLX.view(len(layout.copy_S), layout.most_rows, num_heads, length, last)
    return grid.transpose(1, 2).flatten(2, 3)


def _from_grid(x_SHGX: torch.Tensor, layout: _Layout, rows: int, length: int) -> torch.Tensor:
    """The inverse of `_to_grid`, [S, H, most_rows * L, X] -> [R, H, L, X]."""
    segments, num_heads, _, last = x_SHGX.shape
    x = x_SHGX.view(segments, num_heads, layout.most_rows, length, last).transpose(1, 2)
    x = x.reshape(segments * layout.most_rows, num_heads, length, last)
    return x if layout.grid_R is None else x.index_select(0, layout.grid_R)


def _causal(length: int, extra: int, like: torch.Tensor) -> torch.Tensor:
    """Additive causal mask [length, length + extra]: `extra` keys stand after the first and are hidden from it
    alone."""
    mask = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)
    if not extra:
        return mask
    seen = torch.zeros(length, extra, dtype=like.dtype, device=like.device)
    seen[0] = float("-inf")
    return torch.cat([mask[:, :1], seen, mask[:, 1:]], dim=1)


def _counts(lists: Sequence[ClassList], device: torch.device) -> torch.Tensor:
    return torch.tensor([len(texts) for texts in lists], device=device)
