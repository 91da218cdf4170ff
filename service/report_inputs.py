"""What a report tells, to be filled by whoever has a finished job.  Names and numbers only: no file, no store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from grouping.arbitration import Arbitration
from grouping.plan import Plan
from grouping.review import Review
from service.curves import Curve
from service.records import PlanRow
from service.spec import JobSpec
from service.wire_gains import Gain

Kind = Literal["plan", "all", "alone", "zero_shot", "shared", "trial"]


@dataclass(frozen=True)
class ReportJob:
    """Which job it was."""

    id: str
    name: str
    spec: JobSpec
    written_at: datetime
    """When this report was made."""
    stage_seconds: Mapping[str, float]
    """Stage -> seconds over all attempts, in the order of the stages."""


@dataclass(frozen=True)
class TaskScores:
    """Test scores (0..1) of one task.  None: this was not trained, or failed."""

    task: str
    group: str | None
    """Its group in the plan; None if the plan excluded it."""
    metric: str
    """What the scores are."""
    class_names: tuple[str, ...]
    num_test: int
    grouped: float | None = None
    zero_shot: float | None = None
    alone: float | None = None
    all: float | None = None
    num_captions: int = 0
    """Of a retrieval task, which has no classes."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """All that was measured in its group, by name."""
    details: Mapping[str, float] = field(default_factory=dict)
    """What the method says of the task, by name."""

    def difference(self, baseline: str) -> float | None:
        """Score in its group minus a baseline's, or None if either is missing."""
        other = getattr(self, baseline)
        return None if self.grouped is None or other is None else self.grouped - other

    @property
    def transfer_difficulty(self) -> float | None:
        """Accuracy of guessing over zero-shot accuracy (Yu et al. 2023, Figure 4); None where either is not known."""
        if self.metric != "accuracy" or not self.zero_shot:  # with nothing right it is beyond all numbers
            return None
        return 1 / (len(self.class_names) * self.zero_shot)


@dataclass(frozen=True)
class GroupRun:
    """What the training of one group took; baselines are groups, too.  None: nobody counted it."""

    id: str
    kind: Kind
    tasks: tuple[str, ...]
    group_shared: int | None = None
    """Learned numbers that all tasks of the group share."""
    task_specific: int | None = None
    """Learned numbers of the tasks' own, all tasks together."""
    seconds: float | None = None
    steps: int | None = None
    images: int | None = None
    """Training images seen."""
    failure: str | None = None
    """Why it did not finish."""

    @property
    def learned(self) -> int | None:
        """Learned numbers in all."""
        known = [number for number in (self.group_shared, self.task_specific) if number is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class ReportInputs:
    """All that a report tells."""

    job: ReportJob
    plan: Plan
    scores: Sequence[TaskScores]
    """One per task of the job, in its order."""
    runs: Sequence[GroupRun]
    curves: Sequence[Curve] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    search: Mapping[str, Any] | None = None
    """What `search.json` holds; None: nothing was searched."""
    gains: Sequence[Gain] = ()
    """What the groups gained on test images, with intervals; empty where no baseline trained."""
    review: Review | None = None
    """What was found out about the plan after it was made; None: nothing was."""
    arbitration: Arbitration | None = None
    """What short training runs said of the groups; None: the job asked for none."""
    history: Sequence[PlanRow] = ()
    """Every plan of the job, the one that trained among them."""
