"""Whether, when and how something that failed is tried again.  Pure: it knows no clock, no rows and no Ray.

Every class of failure has a budget of its own.  Waits are drawn between nothing and a bound that doubles with every
failure (full jitter: Brooker, "Exponential backoff and jitter", 2015), so that what fell together does not come back
together.  Preemptions are nobody's fault and have no budget.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.failures import FailureClass

MAX_WAIT_SECONDS = 360.0
BUDGETS: dict[FailureClass, int] = {
    FailureClass.INFRASTRUCTURE: 5,
    FailureClass.OUT_OF_MEMORY: 1,
    FailureClass.BUG: 1,
}
"""Class -> times that it is tried again; a class that is not named: never.  Preemption: always."""
POISON = 3
"""Failures without a new checkpoint between them after which a group is taken to kill whatever runs it."""


@dataclass(frozen=True)
class Failed:
    """One try that failed."""

    failure: FailureClass
    checkpoint: str
    """The newest checkpoint there was then; empty: none."""


@dataclass(frozen=True)
class Again:
    """It is tried again."""

    seconds: float
    """From now."""
    microbatches: int
    """Parts that its batches are taken in."""


@dataclass(frozen=True)
class GivenUp:
    """It is not tried again."""

    why: str
    """A sentence that goes on after the error's own; empty where the class has no second try."""


def what_next(
    failed: Sequence[Failed],
    *,
    microbatches: int = 1,
    can_split: bool = True,
    has_batches: bool = True,
    base_seconds: float,
    chance: Callable[[], float] = random.random,
) -> Again | GivenUp:
    """What follows the last of these failures, which are in the order in which they came.

    Args:
        microbatches: parts that its batches are taken in so far.
        can_split: whether its batches can be taken in parts at all.
        has_batches: whether it takes any; what takes none is tried again as it is.
        chance: a number in [0, 1) for the wait.
    """
    last = failed[-1]
    if last.failure is FailureClass.PREEMPTION:
        return Again(0.0, microbatches)
    mine = [each for each in failed if each.failure is not FailureClass.PREEMPTION]
    if len(mine) >= POISON and len({each.checkpoint for each in mine[-POISON:]}) == 1:
        return GivenUp(f"It failed {POISON} times without a new checkpoint between.")
    times = sum(each.failure is last.failure for each in mine)
    budget = BUDGETS.get(last.failure, 0)
    if times > budget:
        return GivenUp(f"That was the last of {budget + 1} tries." if budget else "")
    if last.failure is FailureClass.OUT_OF_MEMORY and has_batches:
        if not can_split:
            return GivenUp("Its batches cannot be taken in parts: use a smaller training.batch_size.")
        microbatches *= 2
    return Again(backoff_seconds(times, base_seconds, chance), microbatches)


def backoff_seconds(times: int, base: float, chance: Callable[[], float] = random.random) -> float:
    """The wait after the `times`-th failure, between 0 and a bound that starts at `base` and doubles up to six
    minutes."""
    return chance() * min(base * 2 ** min(times - 1, 30), MAX_WAIT_SECONDS)
