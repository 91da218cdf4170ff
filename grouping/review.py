"""A second look at a plan: how firm it is, what another solver would have done, and how the affinities agree.

It takes as long as fifty plans and an exact program, so it is made after the plan and kept beside it.
"""

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from grouping.affinities import Agreement, affinity, agreements
from grouping.confidence import Confidence, confidence
from grouping.decision import decide
from grouping.demands import fuse
from grouping.given import labels_of
from grouping.measurement import Measurement
from grouping.partition import Partition
from grouping.plan import Plan, SecondOpinion

MAX_RESAMPLED = 500
"""Most tasks of a plan that is resampled: above, the quantiles of all similarities would not fit into memory."""


class Review(BaseModel):
    """What is found out about a plan after it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    confidence: Confidence | None
    """How firm the groups are on resampled data; null with fewer than three tasks or more than 500, with too few
    snapshots and microbatches, or for a similarity that rests on no gradients."""
    second_opinion: SecondOpinion | None
    """The other solver's groups; for groups that were given, what the solver would have chosen itself. Null where no
    other solver has anything to say."""
    agreements: list[Agreement]
    """How the affinities that could be had agree, pair by pair; empty with fewer than three tasks."""


def review(
    gradients: np.ndarray,
    measurement: Measurement,
    plan: Plan,
    *,
    costs: Mapping[str, float] | None = None,
    resamples: int = 50,
) -> Review:
    """The review of a plan of these signatures.  [snapshots, microbatches, tasks, params], in `task_names` order."""
    groups = plan.outline().groups
    if sorted(measurement.task_names) != sorted(plan.task_names):
        raise ValueError(
            f"The plan is of {len(plan.task_names)} tasks ({', '.join(plan.task_names)}), the measurement of "
            f"{len(measurement.task_names)} ({', '.join(measurement.task_names)}). Review a plan of the same job."
        )
    labels_T = labels_of(groups, measurement.usable)
    few = len(measurement.usable) <= MAX_RESAMPLED
    return Review(
        confidence=confidence(
            gradients,
            measurement,
            plan.settings,
            list(groups.values()),
            costs=costs,
            resamples=resamples,
            noisy=plan.verdict is not None and plan.verdict.kind == "too_noisy",
        )
        if few
        else None,
        second_opinion=plan.second_opinion or _second_opinion(measurement, plan, labels_T, costs),
        agreements=agreements(measurement, len(np.unique(labels_T)), seed=plan.settings.seed),
    )


def _second_opinion(
    measurement: Measurement, plan: Plan, labels_T: np.ndarray, costs: Mapping[str, float] | None
) -> SecondOpinion | None:
    """The other solver's for groups that a solver found, the solver's own choice for groups that were given."""
    if not measurement.usable:
        return None
    config, found = plan.settings, plan.origin == "gradients"
    measured = affinity(measurement, config.similarity, seed=config.seed)
    names = sorted(measurement.task_names)
    units = [unit for unit in fuse(config, names) if any(name in measurement.usable for name in unit)]
    decision = decide(measurement, measured, units, config, costs, second_opinion=found)
    own = Partition(decision.labels_T, decision.objective["chosen"], decision.solver, decision.gap)
    second = decision.second if found else own
    return None if second is None else SecondOpinion.of(second, labels_T, measurement.usable)
