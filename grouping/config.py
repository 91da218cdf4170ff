"""What the user may say about grouping."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GroupingConfig(BaseModel):
    """How tasks are split into groups."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    num_groups: int | Literal["auto"] = "auto"
    """A fixed number of groups, or `auto` to choose it by silhouette."""
    max_group_size: int | None = Field(default=None, ge=1)
    """Most tasks in one group."""
    must_link: list[tuple[str, str]] = []
    """Pairs of tasks that stay together."""
    cannot_link: list[tuple[str, str]] = []
    """Pairs of tasks that never share a group."""
    similarity: Literal["cross_fit", "cosine"] = "cross_fit"
    """`cross_fit` compares different microbatches of two tasks; `cosine` is the paper's mean cosine (paper parity)."""
    arbitrate: Literal[False] = False
    """Testing the groups by short training runs is not available yet; only `false` is accepted."""
    approve: bool = False
    """Wait for a person to approve the plan before training."""
    seed: int = 0
    """Seed of k-means and of the local search."""

    @model_validator(mode="after")
    def _num_groups_positive(self) -> "GroupingConfig":
        if self.num_groups != "auto" and self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups} must be at least 1, or `auto`.")
        return self
