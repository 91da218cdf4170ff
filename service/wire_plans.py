"""What travels over HTTP about plans: what is asked for, listings, one whole plan with its review, comparisons.

Torch-free and without scikit-learn, so that a client starts at once.
"""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from grouping.config import GroupingConfig
from grouping.outline import Origin, VerdictKind
from service.wire import Message
from workers.spec import Spec


class NewPlan(Spec):
    """Asks for a plan from what the job has measured: with other settings, or for groups of one's own.  Nothing trains.

    With both, the groups are held against the changed settings.
    """

    settings: dict[str, Any] | None = None
    """Fields of the job's `grouping` to change, e.g. `{"num_groups": 3}`; the others stay as the job has them."""
    groups: dict[str, list[str]] | None = None
    """Groups to take as they are, every task in exactly one: `{"g1": ["art", "clipart"], "g2": ["photo"]}`."""

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if self.settings is None and self.groups is None:
            raise ValueError("neither settings nor groups given. Give `settings` to change, `groups`, or both.")
        return self


class PlanSummary(Message):
    """A plan in short."""

    number: int
    """Counts from 0."""
    approved: bool
    """It is the one that trains; at most one plan of a job is."""
    asked: bool
    """True: somebody asked for it; false: the job made it."""
    created_at: datetime
    """When it was made."""
    approved_at: datetime | None
    """When a person, or the job's settings, approved it."""
    origin: Origin
    """Where its groups come from: measured `gradients`, `edited` by a person, `arbitrated` by training, ..."""
    summary: str
    """The outcome in plain words."""
    groups: dict[str, list[str]]
    """Group -> its tasks."""
    verdict: VerdictKind | None
    """What the gradients say before any demand is heard; null where nothing could be compared."""
    solver: str | None
    """What found the groups."""
    objective: dict[str, float]
    """The same objective for `chosen`, `one_group` and `all_alone`; larger is better."""
    settings: GroupingConfig
    """What it was made with."""


class PlanList(Message):
    """The plans of a job, the newest last."""

    plans: list[PlanSummary]
    """At most 100."""


class PlanDetail(PlanSummary):
    """A whole plan, and what was found out about it after it was made."""

    plan: dict[str, Any]
    """The plan with every reason and matrix, as it is kept with the job."""
    review: dict[str, Any] | None
    """How firm the groups are, another solver's opinion, how the affinities agree; null until it is worked out."""
    review_state: Literal["done", "pending", "failed", "none"]
    """`pending`: it is being worked out, ask again; `none`: the plan rests on no measurement, so there is none."""
    review_problem: str | None = None
    """Why the review failed."""


class Move(Message):
    """A task that changes its group between two plans."""

    task: str
    """Its name."""
    first_group: str
    """Its group in the first plan."""
    second_group: str
    """Its group in the second plan."""
    gained: list[str]
    """Tasks it trains with in the second plan only."""
    lost: list[str]
    """Tasks it trains with in the first plan only."""


class PlanComparison(Message):
    """How the second plan differs from the first."""

    first: int
    """Number of the first plan."""
    second: int
    """Number of the second plan."""
    sentence: str
    """The difference in words."""
    rand_index: float
    """Adjusted Rand index of the two partitions: 1 equal, about 0 unrelated."""
    moved: list[Move] = Field(default_factory=list)
    """Tasks that change their group; another id of the same group alone moves nobody."""
    first_objective: float | None
    """The first plan's objective, under its own settings; null where nothing was measured."""
    second_objective: float | None
    """The second plan's value of the same objective, under the first plan's settings."""
