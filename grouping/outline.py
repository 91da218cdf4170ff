"""A plan in short, for listings: who is with whom, and how it came about."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from grouping.config import GroupingConfig

Origin = Literal["gradients", "alone", "all", "edited", "arbitrated", "joined"]
"""`gradients`: measured; `alone`, `all`: the job asked for it; `edited`: a person's own groups; `arbitrated`: tested by
short training runs; `joined`: new tasks placed into the groups of a finished job."""

VerdictKind = Literal["groups", "one_group", "all_alone", "too_noisy"]
"""What the gradients say before any demand is heard."""


class PlanOutline(BaseModel):
    """What is shown of a plan where many are shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    origin: Origin
    """Where the groups come from."""
    summary: str
    """The outcome in plain words."""
    groups: dict[str, list[str]]
    """Group -> its tasks."""
    verdict: VerdictKind | None
    """What the gradients say; null where nothing could be compared."""
    solver: str | None
    """What found the groups."""
    objective: dict[str, float]
    """The same objective for `chosen`, `one_group` and `all_alone`; larger is better."""
    settings: GroupingConfig
    """What the plan was made with."""
