"""How the shared prompt and the groups are trained.  Torch-free."""

from collections.abc import Collection
from typing import Literal

from pydantic import Field, model_validator

from workers.methods.base_config import MethodSpec
from workers.spec import Spec


class AugmentConfig(Spec):
    """Random crops and flips of the training images, drawn per image in batches on the device."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random resized crop keeps, from and to."""
    flip: bool = True
    """Mirror half of the images.  Turn it off for digits and text."""

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> "AugmentConfig":
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest <= 1:
            raise ValueError(f"crop_scale={list(self.crop_scale)} must hold 0 < from <= to <= 1. Use [0.5, 1.0], say.")
        return self


class PairwiseConfig(Spec):
    """The pair-wise contrastive loss (CAVL, arXiv 2304.04399, section 4.2.1): one logarithm over the whole batch.

    It compares features of images and texts as the method leaves them, so it moves nothing in a method that does not
    change features: Tip-Adapter-F's cache.  Several ranks take it each over its own share of the batch."""

    weight: float = Field(default=0.1, gt=0)
    """What it is multiplied with before it is added to the task's loss."""
    form: Literal["exp", "literal"] = "exp"
    """`exp` takes exponentials of the similarities and is bounded; `literal` is the paper's, with both sums clamped."""
    temperature: float = Field(default=0.07, gt=0)
    """Divides the similarities under `exp`."""
    replaces_contrastive: bool = False
    """Retrieval tasks train on this loss alone, unweighted, in the place of the two-way contrastive one."""


class TrainConfig(Spec):
    """The optimiser and its length: one setting for every group and baseline of a job."""

    epochs: int = Field(default=5, ge=1)
    """Passes over the longest task of a group; shorter tasks start over."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps per group, whatever its tasks' sizes.  Left out: by epochs."""
    batch_size: int = Field(default=16, ge=1)
    """Images per task and step."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """SGD with momentum 0.9, or AdamW.  Left out: what the method is published with."""
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate.  Left out: what the method is published with."""
    weight_decay: float | None = Field(default=None, ge=0)
    """L2 (SGD) or decoupled (AdamW) decay of the trainables.  Left out: what the method is published with."""
    pairwise: PairwiseConfig | None = None
    """Adds the pair-wise contrastive loss of CAVL, times its weight, to every task's own loss, whatever the method."""
    warmup_epochs: int = Field(default=1, ge=0)
    """First epochs at a constant 1e-5, not counted when the run has a single epoch; then cosine per epoch."""
    augment: AugmentConfig | None = AugmentConfig()
    """Null turns augmentation off."""
    seed: int = 0
    """Seed of initialisation, data order and augmentation."""
    validations: int = Field(default=5, ge=1)
    """How many times along the run validation images are scored; the last time at its end."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Optimiser steps between checkpoints."""


class TrainSettings(TrainConfig):
    """A `TrainConfig` whose optimiser is decided: see `decide`."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.0035
    weight_decay: float = 5e-4


def decide(config: TrainConfig, method: MethodSpec) -> TrainSettings:
    """The settings a method trains with: the job's, and the method's own where the job says nothing."""
    given = config.model_dump()
    return TrainSettings(**(given | {k: v for k, v in method.published()._asdict().items() if given[k] is None}))


LARGEST_SIGNATURES = 2 * 1024**3
"""Bytes of gradients that a job keeps."""


class ProfileConfig(Spec):
    """The shared prompt and the snapshots taken along its training."""

    epochs: int = Field(default=5, ge=1)
    """Passes over the longest task while the shared prompt trains."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of the shared prompt.  Left out: by epochs."""
    snapshots: int = Field(default=5, ge=1, le=50)
    """Points, equally spaced after warm-up, at which every task's gradient is read."""
    microbatches: int = Field(default=4, ge=2, le=64)
    """Disjoint batches of training images per snapshot and task."""
    max_microbatches: int = Field(default=16, ge=0, le=64)
    """Where so many snapshots and microbatches cannot tell groups from noise, the profile takes more at the prompts it
    has stored, up to this many per snapshot.  0, or no more than `microbatches`: never."""
    microbatch_size: int = Field(default=16, ge=1)
    """Images per task in one microbatch (fewer where a task has too few images)."""


def can_split(config: TrainConfig, kinds: Collection[str]) -> bool:
    """Whether a batch of tasks of these kinds can be taken in parts: every image's loss must be its own."""
    return config.pairwise is None and "retrieval" not in kinds
