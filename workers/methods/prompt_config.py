"""Settings of the methods that learn prompt tokens.  Torch-free."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from workers.clip.config import BackboneShape
from workers.methods.base_config import HALVES, MethodSpec, Sharing


class PromptSpec(MethodSpec):
    """Prompt tokens of a group and of a task stand side by side, as MmAP-MT defines it (Xin et al. 2024, eq. 5)."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped", "grouped+task")
    refusals: ClassVar[dict[Sharing, str]] = {"half": HALVES}


class MmAPConfig(PromptSpec):
    """Multi-modal alignment prompts (Xin et al., AAAI 2024): one source prompt, scaled by Kronecker products into
    text and image prompts of every prompted layer."""

    kind: Literal["mmap"] = "mmap"
    num_tokens: int = Field(default=4, ge=1, le=64)
    """Prompt tokens per layer and modality (b)."""
    source_shape: tuple[int, int] = (2, 2)
    """Shape (m, n) of the source prompt P_s.  m divides num_tokens; n divides both tower widths."""
    depth: int | None = Field(default=None, ge=1)
    """Prompted layers (K), counted from the first.  Left out: every layer of the shallower tower."""
    modality: Literal["both", "text", "vision"] = "both"
    """Prompt both towers, or one only (an ablation)."""
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

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """N1 = m*n + K*b*(D_text + D_image)/(m*n) (Xin et al. 2024, section 3.2)."""
        m, n = self.source_shape
        widths = {"both": shape.text_width + shape.image_width, "text": shape.text_width, "vision": shape.image_width}
        return m * n + (self.depth or shape.layers) * self.num_tokens * widths[self.modality] // (m * n)


def paper_budget(sharing: Sharing = "grouped+task") -> MmAPConfig:
    """The profile that reproduces the paper's 0.09 % of ViT-B/16 at two groups: b=4, m x n = 2 x 1, K=9."""
    return MmAPConfig(num_tokens=4, source_shape=(2, 1), depth=9, sharing=sharing)
