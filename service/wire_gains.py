"""What travels over HTTP of measured gains: of the groups on test images, and of the short runs that put a plan to the
test on validation images."""

from typing import Literal

from pydantic import computed_field

from service.message import Message


class PairedGain(Message):
    """A mean difference of scores on the same images, with its 95 % interval (paired bootstrap over images).

    It says nothing about another seed or other training images.
    """

    mean: float
    """Mean over tasks of the mean difference over a task's images, -1 to 1; above 0 the first way is better."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""
    num_tasks: int
    """Tasks compared."""
    num_images: int
    """Images compared."""

    @computed_field
    @property
    def spans_zero(self) -> bool:
        """The difference cannot be told from none."""
        return self.low <= 0 <= self.high


class Gain(PairedGain):
    """How much better the plan's groups did on test images than a baseline."""

    task: str | None
    """Null: the mean over the tasks of this metric that were trained both ways."""
    against: Literal["zero_shot", "alone", "all"]
    """The baseline."""
    metric: str
    """What is compared, one figure an image: `accuracy`, `image_average_precision` or `recall@1`."""


class TaskTrial(Message):
    """How one task did in the short runs, on validation images; null where one of the two was not to be had."""

    task: str
    """Its name."""
    tested_group: str
    """Its group in the plan that was tested."""
    group: str
    """Its group now."""
    tested_over_alone: PairedGain | None
    """In the tested plan's group, against training alone."""
    tested_over_one_group: PairedGain | None
    """In the tested plan's group, against one group of all tasks."""
    over_alone: PairedGain | None
    """In the group that was chosen, against training alone."""
    over_one_group: PairedGain | None
    """In the group that was chosen, against one group of all tasks."""


class Action(Message):
    """A change that the short runs asked for, or why there was none."""

    kind: Literal["dissolved", "moved", "left", "kept", "undone"]
    """`kept`: a demand of the job holds together what does worse together.  `undone`: a change that did no good."""
    tasks: list[str]
    """Of these tasks."""
    from_group: str
    """Group of the plan that was tested."""
    to_group: str | None = None
    """Where the tasks moved."""
    sentence: str
    """What happened and why."""


class PredictivePower(Message):
    """Whether the similarities foretold the gains of training together, on this job."""

    spearman: float | None
    """Rank correlation of a task's mean similarity to its partners with its gain over training alone."""
    left_out: float | None
    """Rank correlation of the gains with what is foretold for a task that was left out."""
    num_observations: int
    """Tasks in tested groups of at least two."""
    is_predictive: bool
    """Whether they are believed."""
    sentence: str
    """The same in words."""


class Arbitration(Message):
    """What short training runs of the plan's groups showed, and what follows."""

    outcome: Literal["kept", "changed", "one_group", "all_alone"]
    """What became of the plan's groups."""
    sentence: str
    """The outcome with its reason."""
    gain: PairedGain | None
    """Of the groups found best over one group of all tasks."""
    tested_gain: PairedGain | None
    """Of the tested plan over one group of all tasks."""
    tasks: list[TaskTrial]
    """Every task's gains."""
    actions: list[Action]
    """What moved, left or dissolved, and why."""
    num_rounds: int
    """2 where changed groups had to be tested."""
    power: PredictivePower
    """Whether the similarities were predictive here."""
