"""What travels over HTTP of a plan's reasons: why every task is where it is, and how sure that is.

Torch-free and free of `grouping`, like `service.wire`.  A plan that was made before something was measured leaves it
out: null or empty, never a guess.
"""

from typing import Literal

from pydantic import Field

from service.message import Message
from service.wire_gains import Arbitration


class Neighbour(Message):
    """Another task, seen from one."""

    task: str
    """Its name."""
    similarity: float
    """Agreement of the two signatures."""
    standard_error: float | None = None
    """How sure that is."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end."""


class BlockShare(Message):
    """One layer of one modality's prompts, and its part of a task's similarity."""

    block: str
    """`text.0`, `image.3`: modality and layer."""
    own: float | None
    """Part of the mean similarity to its group; negative where they conflict.  Null alone."""
    other: float | None
    """The same for the best other group, or for the nearest task where there is none."""


class TaskWhy(Message):
    """Where in the prompts a task's agreement sits, and how it went over the snapshots."""

    whom: Literal["its group", "the nearest task"]
    """With whom the agreement is."""
    modality: dict[str, float]
    """`text`, `image` -> its part of the similarity; negative where they conflict.  Empty where it was not measured."""
    agree: list[str]
    """The layers that carry the agreement, at most three, the strongest first."""
    conflict: list[str]
    """The layers that pull against it, the strongest first."""
    blocks: list[BlockShare]
    """Every layer's part; they add up to the similarity."""
    trend: list[float]
    """The similarity at each snapshot, in the order of training."""
    words: str
    """Modalities and layers in a sentence."""
    trend_words: str
    """The trend in words: steady, grows, falls, changes sign ..."""


class TaskReason(Message):
    """Why a task is where it is."""

    task: str
    """Its name."""
    group: str
    """Its group."""
    nearest: list[Neighbour] = Field(default_factory=list)
    """The tasks it agrees with most."""
    margin: float | None = None
    """How much better its own group fits than the next best."""
    next_group: str | None = None
    """That next best group."""
    sentence: str = ""
    """The reason in words."""
    why: TaskWhy | None = None
    """Layers, modalities and trend; null where no gradient was compared."""
    together: float | None = None
    """Share of resamples in which it met its group (alone: in which it met nobody); null until the review is there."""
    together_margin: float | None = None
    """`together` minus the same for the group it met most of the others; negative: it belongs there rather."""


class Verdict(Message):
    """What the gradients say before any demand is heard."""

    kind: Literal["groups", "one_group", "all_alone", "too_noisy"]
    """In a word."""
    sentence: str
    """In words, with R, and with what more must be measured where that is too little."""
    detection: float | None
    """R: 1 and more is sure, below 0.6 is a guess."""
    smallest_gap: float | None
    """The smallest difference of similarity that would have been seen."""
    effective_dimension: float | None
    """Independent directions of the gradient noise."""
    mean_reliability: float | None
    """Mean agreement of a task with itself on other data."""
    measured: int
    """Snapshots x microbatches there are."""
    needed: int | None
    """Snapshots x microbatches needed in all; null where there are enough."""


class SecondOpinion(Message):
    """What another solver says about the same measurements."""

    solver: str
    """Which."""
    groups: list[list[str]]
    """Its groups."""
    agreement: float
    """Adjusted Rand index with the plan's: 1 equal, about 0 unrelated."""
    objective: float
    """Its value of the plan's objective."""
    gap: float | None
    """Relative distance to the proven optimum; null where nothing was proven."""


class Confidence(Message):
    """How firm the groups are on resampled snapshots and microbatches."""

    word: Literal["refuse", "usable", "firm"]
    """`firm` from a bootstrap ARI of 0.8, `usable` from 0.2."""
    sentence: str
    """The same in words."""
    rand_index: float
    """Bootstrap ARI: mean adjusted Rand index between two resamples' groups."""
    ambiguous: float
    """PAC: share of pairs that are together in more than 10 % and fewer than 90 % of the resamples."""
    resamples: int
    """How many."""


class Agreement(Message):
    """How two affinities agree on this job."""

    first: str
    """`cross_fit`, `cosine`, `tag`, `text`, `image` or `random`."""
    second: str
    """Another of them."""
    spearman: float | None
    """Rank correlation over all pairs of tasks; null where one of them says the same of all pairs."""
    rand_index: float
    """Adjusted Rand index of their partitions."""


class PlanFacts(Message):
    """How the plan came about, and how sure it is."""

    number: int
    """Which plan: the one that trains, or the newest where none is approved."""
    approved: bool
    """Whether it may be trained."""
    origin: str
    """`gradients`, `alone`, `all`, `edited`, `arbitrated` or `joined`."""
    summary: str
    """The outcome in plain words."""
    verdict: Verdict | None
    """What the gradients say; null where nothing could be compared."""
    solver: str | None
    """What found the groups."""
    gap: float | None
    """Relative distance to the proven optimum of the objective; null where nothing was proven."""
    objective: dict[str, float]
    """The same objective for `chosen`, `one_group` and `all_alone`; larger is better."""
    second_opinion: SecondOpinion | None
    """Another solver's groups; null where none was asked, or not yet."""
    reviewed: bool
    """Whether the review is there: it is made after the plan, and brings confidence, agreements and second opinion."""
    confidence: Confidence | None
    """Null until then, and where there is nothing to resample."""
    agreements: list[Agreement]
    """How the affinities agree, pair by pair; empty until then."""
    arbitration: Arbitration | None
    """What short training runs said of the groups; null where the job asked for none."""
