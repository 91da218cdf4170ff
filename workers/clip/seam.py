"""What a method may plug into a frozen tower, and nothing else.

Prompt tokens in front of a layer, a function on the output of the attention or MLP branch, and tensors that stand in
for frozen weights carry nearly every parameter-efficient method; context inside the sentence (CoOp's class-specific
context) and a block beside the tower (CAVL's Adapter I) carry the rest.  A tower knows none of the methods; a method
knows none of the towers' insides beyond these.

    # C copies of a method's parameters (tasks, groups), B rows (images or class sentences) of one pass
    # K prompted layers, M prompt tokens per layer, L positions, D tower width, E joint embedding
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch


@dataclass(frozen=True)
class Rows:
    """Which copy of a method's parameters every row of a pass runs under."""

    blocks: tuple[tuple[int, int], ...]
    """(copy, number of rows), in the order of the rows."""
    index_B: torch.Tensor
    """The same as one copy per row, int64."""

    @classmethod
    def of(cls, blocks: Sequence[tuple[int, int]], device: torch.device) -> "Rows":
        """From (copy, number of rows) pairs; neighbours with the same copy become one block."""
        merged: list[tuple[int, int]] = []
        for copy, count in blocks:
            if merged and merged[-1][0] == copy:
                count += merged.pop()[1]
            merged.append((copy, count))
        copies, counts = zip(*merged, strict=True)
        index_B = torch.repeat_interleave(
            torch.tensor(copies, device=device), torch.tensor(counts, device=device), output_size=sum(counts)
        )
        return cls(tuple(merged), index_B)

    def split(self, x_B: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(copy, its rows of x) block by block: the cheap way to give every copy's rows to its own weights."""
        parts = x_B.split([count for _, count in self.blocks])
        return zip((copy for copy, _ in self.blocks), parts, strict=True)


Branch = Callable[[int, Literal["attn", "mlp"], torch.Tensor, Rows], torch.Tensor]
"""`branch(layer, "attn" | "mlp", output_BLD, rows) -> output_BLD`, applied before the residual addition.

It must treat positions alike (an adapter, a scale): towers call it on prefixes, on suffixes and on single positions."""


@dataclass(frozen=True)
class Contexts:
    """Learned vectors between a sentence's own tokens, at the input of the text tower (CoOp)."""

    vectors: tuple[torch.Tensor, ...]
    """For every copy [1, M, D], or [classes, M, D] where every class has its own."""
    position: Literal["end", "middle", "front"]
    """Where the class name stands: after the context, in its middle, or before it.  Sentences read `{}.`."""


@dataclass(frozen=True)
class Side:
    """A block in parallel to the whole tower, on the output of its embedding (CAVL's Adapter I)."""

    block: Callable[[torch.Tensor, torch.Tensor | None, Rows], torch.Tensor]
    """`block(x_BLD, mask, rows) -> x_BLD`; the tower pools and projects the result as its own."""
    fuse: Callable[[torch.Tensor, torch.Tensor, Rows], torch.Tensor]
    """`fuse(features_BE, side_BE, rows) -> features_BE`, in fp32."""


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
    contexts: Contexts | None = None
    """Text tower only; not together with prompts."""
    side: Side | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing is plugged in: the tower is the frozen one."""
        return not self.overrides and all(
            part is None for part in (self.prompts_CKMD, self.branch, self.contexts, self.side)
        )

    @property
    def depth(self) -> int:
        """Prompted layers."""
        return 0 if self.prompts_CKMD is None else self.prompts_CKMD.shape[1]

    @property
    def num_tokens(self) -> int:
        """Tokens that the edits add to a sequence."""
        if self.contexts is not None:
            return self.contexts.vectors[0].shape[1]
        return 0 if self.prompts_CKMD is None else self.prompts_CKMD.shape[2]


NO_EDITS = Edits()
