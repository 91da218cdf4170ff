"""What every method's config has in common.  Torch-free."""

from typing import ClassVar, Literal, NamedTuple

from pydantic import model_validator

from workers.clip.config import BackboneShape
from workers.data.config import TaskKind
from workers.spec import Spec

Sharing = Literal["alone", "all", "grouped", "grouped+task", "half"]
"""Who shares a method's parameters: every task its own (`alone`), one set for all tasks (`all`), one set per group
(`grouped`), one set per group beside one per task (`grouped+task`), or sets of which a half is the group's and the
other half each task's own (`half`)."""

BESIDE = "its paper defines no second set beside the shared one"
HALVES = "only the bottleneck adapter has two halves of which one can be shared"


class OptimizerDefaults(NamedTuple):
    """The optimiser that a method is published with, where a job does not name one."""

    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float


class MethodSpec(Spec):
    """Base of all method configs.  A method with a `sharing` field refuses what its paper does not define."""

    sharings: ClassVar[tuple[Sharing, ...]] = ()
    """The sharing modes it has; empty for a method without parameters to share."""
    refusals: ClassVar[dict[Sharing, str]] = {"grouped+task": BESIDE, "half": HALVES}
    """Why it does not have the others."""
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multi_label", "retrieval")
    """Task kinds it can train."""
    trains: ClassVar[bool] = True
    """Whether the training loop takes steps.  False: nothing is learned, or it is solved before the first step."""
    feature_side: ClassVar[bool] = False
    """Works on features of the frozen towers, which are computed once."""
    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("sgd", 0.0035, 5e-4)

    @model_validator(mode="after")
    def _sharing_is_defined(self) -> "MethodSpec":
        sharing: Sharing | None = getattr(self, "sharing", None)
        if sharing is not None and sharing not in self.sharings:
            raise ValueError(
                f"sharing={sharing} is not defined for {getattr(self, 'kind', '')}: "
                f"{self.refusals.get(sharing, BESIDE)}. Use {' or '.join(self.sharings)}."
            )
        return self

    def published(self) -> OptimizerDefaults:
        """The optimiser that the method is published with, under these settings."""
        return self.defaults

    def task_kinds(self) -> tuple[TaskKind, ...]:
        """Task kinds it can train with these settings."""
        return self.kinds

    @property
    def needs_equal_classes(self) -> bool:
        """Whether only tasks with the same class names in the same order can share a set of it."""
        return False

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """Numbers in one parameter set: what one group, or one task, trains.  `num_classes` of one task."""
        return 0

    def per_train_image(self, shape: BackboneShape) -> int:
        """Numbers trained for every training image, beside the parameter sets; they are shared as those are."""
        return 0

    def sizes(self, shape: BackboneShape, num_classes: int) -> tuple[int, int]:
        """Numbers that a group shares, and numbers that each of its tasks has of its own."""
        one = self.one_set(shape, num_classes)
        match getattr(self, "sharing", None):
            case "alone":
                return 0, one
            case "all" | "grouped":
                return one, 0
            case "grouped+task":
                return one, one
            case _:
                assert one == 0, "a method with parameters and no plain sharing states its sizes itself"
                return 0, 0
