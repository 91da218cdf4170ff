"""What the user may say about grouping."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GroupingConfig(BaseModel):
    """How tasks are split into groups."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    num_groups: Annotated[int, Field(strict=True)] | Literal["auto"] = "auto"
    """A fixed number of groups, or `auto` to choose it by silhouette."""
    max_group_size: int | None = Field(default=None, ge=1)
    """Most tasks in one group."""
    max_group_cost: float | None = Field(default=None, gt=0)
    """Most that the tasks of one group may cost together.  A task of a job costs its training images in one step."""
    must_link: list[tuple[str, str]] = []
    """Pairs of tasks that stay together."""
    cannot_link: list[tuple[str, str]] = []
    """Pairs of tasks that never share a group."""
    pinned: list[Annotated[list[str], Field(min_length=1)]] = []
    """Groups that are given: each stays exactly as it is, and the other tasks are grouped around them."""
    similarity: Literal["cross_fit", "cosine", "tag", "text", "image", "random"] = "cross_fit"
    """`cross_fit` compares different microbatches of two tasks; `cosine` is the paper's mean cosine (paper parity).
    For comparison: `tag` is first-order TAG (by how much a step for one task lowers the other's loss), `text` compares
    the class names, `image` the zero-shot features of the images, and `random` knows nothing."""
    solver: Literal["spectral", "correlation"] = "spectral"
    """How `cross_fit` groups: `spectral` clustering, with correlation clustering as second opinion, or the other way
    round, which is better where many tasks belong to nobody and gradients are reliable (0.2 and more)."""
    arbitrate: bool = False
    """Put the groups to the test before the budget is spent: each trains for a short while beside one group of all
    tasks and every task alone, and what does worse on validation images moves, leaves or is dissolved."""
    arbitrate_share: float = Field(default=0.1, gt=0, le=1)
    """How long the test of `arbitrate` trains, as a share of the steps of the training itself."""
    approve: bool = False
    """Wait for a person to approve the plan before training."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of k-means and of the local search."""

    @model_validator(mode="after")
    def _num_groups_positive(self) -> "GroupingConfig":
        if self.num_groups != "auto" and self.num_groups < 1:
            raise ValueError(f"num_groups={self.num_groups} must be at least 1, or `auto`.")
        return self
