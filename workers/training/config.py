"""How the shared prompt and the groups are trained.  Torch-free."""

from typing import Literal

from pydantic import Field, model_validator

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


class TrainConfig(Spec):
    """The optimiser and its length: one setting for every group and baseline of a job."""

    epochs: int = Field(default=5, ge=1)
    """Passes over the longest task of a group; shorter tasks start over."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps per group, whatever its tasks' sizes.  Left out: by epochs."""
    batch_size: int = Field(default=16, ge=1)
    """Images per task and step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    lr: float = Field(default=0.0035, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 (SGD) or decoupled (AdamW) decay of the trainables."""
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
    microbatch_size: int = Field(default=16, ge=1)
    """Images per task in one microbatch (fewer where a task has too few images)."""
