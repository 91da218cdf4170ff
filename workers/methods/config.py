"""What can be trained on a frozen CLIP.  Torch-free; the union below IS the registry of methods."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workers.spec import Spec

Sharing = Literal["alone", "all", "grouped", "grouped+task"]
"""Who shares a method's parameters: every task its own (`alone`), one set for all tasks (`all`), one set per group
(`grouped`), or one set per group beside one per task (`grouped+task`)."""


class ZeroShotConfig(Spec):
    """CLIP as it is: the template with the class name, nothing trained (Radford et al. 2021)."""

    kind: Literal["zero_shot"] = "zero_shot"


class MmAPConfig(Spec):
    """Multi-modal alignment prompts (Xin et al., AAAI 2024): one source prompt, scaled by Kronecker products into
    text and image prompts of every prompted layer."""

    kind: Literal["mmap"] = "mmap"
    num_tokens: int = Field(default=4, ge=1, le=64)
    """Prompt tokens per layer and modality (b)."""
    source_shape: tuple[int, int] = (2, 2)
    """Shape (m, n) of the source prompt P_s.  m divides num_tokens; n divides both tower widths."""
    depth: int | None = Field(default=None, ge=1)
    """Prompted layers (K), counted from the first.  Left out: every layer of the shallower tower."""
    sharing: Sharing = "grouped+task"
    """Which parameter sets exist: see `Sharing`."""
    group_reduce: Literal["sum", "mean"] = "sum"
    """How the group-shared part's loss is reduced over its tasks: the paper accumulates (`sum`)."""

    @model_validator(mode="after")
    def _source_divides_tokens(self) -> "MmAPConfig":
        m, n = self.source_shape
        if m < 1 or n < 1:
            raise ValueError(f"source_shape={list(self.source_shape)}: both sides must be at least 1.")
        if self.num_tokens % m:
            raise ValueError(
                f"source_shape={list(self.source_shape)}: its first side {m} must divide num_tokens={self.num_tokens}. "
                f"Use a divisor of {self.num_tokens}."
            )
        return self


def paper_budget(sharing: Sharing = "grouped+task") -> MmAPConfig:
    """The profile that reproduces the paper's 0.09 % of ViT-B/16 at two groups: b=4, m x n = 2 x 1, K=9."""
    return MmAPConfig(num_tokens=4, source_shape=(2, 1), depth=9, sharing=sharing)


MethodConfig = Annotated[ZeroShotConfig | MmAPConfig, Field(discriminator="kind")]
