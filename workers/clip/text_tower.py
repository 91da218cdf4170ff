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

from workers.clip.blocks import Blocks, attention, layer_norm, layer_norm_parameters
from workers.clip.plain import run_plain_block
from workers.clip.seam import NO_EDITS, Contexts, Edits, Rows
from workers.clip.tokens import ClassList

OWN = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
"""The tower's parts; where they lie flat on the CLIP, the image tower and the temperature are beside them."""


class TextTower:
    """open_clip's text transformer, flat or under `.text`.  Its own parameters never receive a gradient."""

    def __init__(self, owner: Any, *, pool_type: str, eos_id: int | None, fast: bool):
        self._owner = owner
        self._pool_type = pool_type
        self._eos_id = eos_id
        self._fast = fast
        self._is_causal = owner.attn_mask is not None and pool_type in ("argmax", "eos")
        self.width: int = owner.transformer.width
        self.layers: int = len(owner.transformer.resblocks)
        self.num_heads: int = owner.transformer.resblocks[0].attn.num_heads
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

    def word_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """The frozen embeddings of token ids, fp32.  [...] -> [..., D]"""
        return self._embed(ids, NO_EDITS).float()

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
        counts = [len(texts) for texts in lists]
        features = self.project(self.pooled(lists, edits, copies, plain=plain), edits)
        if edits.side is not None:
            rows = Rows.of(list(zip(copies, counts, strict=True)), features.device)
            x, mask, end_R = self._sentences(lists, NO_EDITS, copies, whole=False)
            beside = self._pool(edits.side.block(x, mask, rows), end_R, edits)
            features = edits.side.fuse(features, self.project(beside, edits), rows)
        return list(features.split(counts))

    def parameters(self) -> dict[str, torch.Tensor]:
        """The tower's own tensors, by the names that overrides go by."""
        named = self._owner.named_parameters()
        return {name: parameter.detach() for name, parameter in named if name.split(".")[0] in OWN}

    def layer_norms(self) -> frozenset[str]:
        """Which of `parameters` belong to LayerNorms."""
        return layer_norm_parameters(self._owner) & self.parameters().keys()

    def pooled(
        self, lists: Sequence[ClassList], edits: Edits, copies: list[int], *, plain: bool = False
    ) -> torch.Tensor:
        """The pooled and normed outputs that `project` turns into features, all rows in order.  [R, D]"""
        if plain or not self._fast or edits.contexts is not None:
            return self._run_plain(lists, edits, copies, whole=plain)
        return layer_norm(self._run_fast(lists, edits, copies), self._owner.ln_final, "ln_final", edits.overrides)

    def project(self, pooled_RD: torch.Tensor, edits: Edits = NO_EDITS) -> torch.Tensor:
        """Features of pooled outputs, [R, D] -> [R, E] fp32."""
        projection = self._owner.text_projection
        if projection is None:
            return pooled_RD.float()
        if isinstance(projection, nn.Linear):
            weight = edits.overrides.get("text_projection.weight", projection.weight).to(pooled_RD.dtype)
            bias = None if projection.bias is None else edits.overrides.get("text_projection.bias", projection.bias)
            bias = None if bias is None else bias.to(pooled_RD.dtype)
            return nn.functional.linear(pooled_RD, weight, bias).float()
        return (pooled_RD @ edits.overrides.get("text_projection", projection).to(pooled_RD.dtype)).float()

    def _run_plain(self, lists: Sequence[ClassList], edits: Edits, copies: list[int], *, whole: bool) -> torch.Tensor:
        num_tokens = 0 if edits.prompts_CKMD is None else edits.num_tokens
        x, mask, end_R = self._sentences(lists, edits, copies, whole=whole)
        counts = [len(texts) for texts in lists]
        rows = Rows.of(list(zip(copies, counts, strict=True)), x.device)
        for layer, block in enumerate(self._owner.transformer.resblocks):
            if edits.prompts_CKMD is not None and layer < edits.depth:
                prompts = edits.prompts_CKMD[rows.index_B, layer].to(x.dtype)
                rest = x[:, 1:] if layer == 0 else x[:, 1 + num_tokens :]
                x = torch.cat([x[:, :1], prompts, rest], dim=1)
                if layer == 0:
                    x = x + self._positions(edits)[: x.shape[1]]
            x = run_plain_block(block, layer, x, mask, edits, rows)
        return self._pool(x, end_R, edits)

    def _sentences(
        self, lists: Sequence[ClassList], edits: Edits, copies: list[int], *, whole: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Embedded sentences [R, L, D], the attention mask, and the pooled position of every row once all is in place.

        With context vectors in their places, but not yet the prompts of the layers.  `whole` keeps the padding; without
        it a causal tower's sentences are cut at the longest end.  Positions are added unless prompts will move them.
        """
        num_tokens = edits.num_tokens
        end_R = torch.cat([texts.end_R for texts in lists])
        stop = self.context_length - num_tokens if whole or not self._is_causal else int(end_R.max()) + 1
        x = self._embed(torch.cat([texts.ids_RL for texts in lists])[:, :stop], edits)
        if edits.contexts is not None:
            vectors = [
                edits.contexts.vectors[copy].to(x.dtype).expand(len(texts), -1, -1)
                for texts, copy in zip(lists, copies, strict=True)
            ]
            x = _insert(x, torch.cat(vectors), end_R, edits.contexts)
        if edits.prompts_CKMD is None:
            x = x + self._positions(edits)[: x.shape[1]]
        length = x.shape[1] + (0 if edits.prompts_CKMD is None else num_tokens)
        mask = self._owner.attn_mask
        return x, None if mask is None else mask[:length, :length].to(x.dtype), end_R + num_tokens

    def _pool(self, x: torch.Tensor, end_R: torch.Tensor, edits: Edits) -> torch.Tensor:
        """[R, L, D] -> [R, D]: the pooled position, normed."""
        if self._pool_type == "first":
            pooled = x[:, 0]
        elif self._pool_type == "last":
            pooled = x[:, -1]
        else:
            pooled = x[torch.arange(len(x), device=x.device), end_R]
        return layer_norm(pooled, self._owner.ln_final, "ln_final", edits.overrides)

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
                prompts = edits.prompts_CKMD[layout.rows_S.index_B, layer].to(rows.dtype)
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
                    layout.rows_S,
                )
            rows = blocks.finish(layer, rows, attended, layout.rows_R)
        return rows[:, 0]

    def _embed(self, ids: torch.Tensor, edits: Edits) -> torch.Tensor:
        table = edits.overrides.get("token_embedding.weight", self._owner.token_embedding.weight)
        return nn.functional.embedding(ids, table).to(self.dtype)

    def _positions(self, edits: Edits) -> torch.Tensor:
        return edits.overrides.get("positional_embedding", self._owner.positional_embedding).to(self.dtype)


@dataclass(frozen=True)
class _Layout:
    """Where prefixes and rows of one pass lie.  Rows stand segment by segment; `grid_R` places them in [S, most
    rows]."""

    prefix_ids_SP: torch.Tensor
    row_ids_RL: torch.Tensor
    end_R: torch.Tensor
    rows_S: Rows
    rows_R: Rows
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
        most_rows = int(counts.max())
        grid_R = None
        if int(counts.min()) != most_rows:
            first_S = torch.cumsum(counts, 0) - counts
            grid_R = segment_R * most_rows + torch.arange(len(segment_R), device=device) - first_S[segment_R]
        return cls(
            prefix_ids_SP=torch.stack([texts.ids_RL[0, :num_shared] for texts in lists]),
            row_ids_RL=torch.cat([texts.ids_RL[:, num_shared:stop] for texts in lists]),
            end_R=end_R,
            rows_S=Rows.of([(copy, 1) for copy in copies], device),
            rows_R=Rows.of([(copy, len(texts)) for copy, texts in zip(copies, lists, strict=True)], device),
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
        full = x_RHLX.new_zeros(len(layout.prefix_ids_SP) * layout.most_rows, num_heads, length, last)
        x_RHLX = full.index_copy(0, layout.grid_R, x_RHLX)
    grid = x_RHLX.view(len(layout.prefix_ids_SP), layout.most_rows, num_heads, length, last)
    return grid.transpose(1, 2).flatten(2, 3)


def _from_grid(x_SHGX: torch.Tensor, layout: _Layout, rows: int, length: int) -> torch.Tensor:
    """The inverse of `_to_grid`, [S, H, most_rows * L, X] -> [R, H, L, X]."""
    segments, num_heads, _, last = x_SHGX.shape
    x = x_SHGX.view(segments, num_heads, layout.most_rows, length, last).transpose(1, 2)
    x = x.reshape(segments * layout.most_rows, num_heads, length, last)
    return x if layout.grid_R is None else x.index_select(0, layout.grid_R)


def _insert(
    words_RLD: torch.Tensor, vectors_RMD: torch.Tensor, end_R: torch.Tensor, contexts: Contexts
) -> torch.Tensor:
    """Sentences `{}.` with their context vectors in place, [R, L, D] and [R, M, D] -> [R, L + M, D].

    Every vector stands before some word: the first (the class name), or the one before the end (the full stop).
    """
    rows, length, width = words_RLD.shape
    num = vectors_RMD.shape[1]
    order_M = torch.arange(num, device=words_RLD.device)
    leading = {"end": num, "middle": num // 2, "front": 0}[contexts.position]
    place_RM = torch.where(order_M < leading, torch.ones_like(end_R)[:, None], end_R[:, None] - 1)
    word_keys = torch.arange(length, device=words_RLD.device) * (num + 1) + num
    keys = torch.cat([word_keys.expand(rows, -1), place_RM * (num + 1) + order_M], dim=1)
    source = torch.cat([words_RLD, vectors_RMD], dim=1)
    return source.gather(1, keys.argsort(dim=1)[..., None].expand(-1, -1, width))


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
