"""The learning rate: a constant warm-up, then a cosine stepped once per epoch, as the CoOp family trains (Dassl)."""

import math

from workers.training.config import TrainConfig, TrainSettings

WARMUP_LR = 1e-5


def learning_rate(config: TrainSettings, *, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """The rate of one step.  The cosine counts from the end of the warm-up and runs over all epochs, so it never
    reaches 0."""
    epochs = max(1, -(-num_steps // steps_per_epoch))
    warmup = warmup_steps(config, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    if step < warmup:
        return min(WARMUP_LR, config.lr)
    epoch = (step - warmup) // steps_per_epoch
    return config.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def warmup_steps(config: TrainConfig, *, num_steps: int, steps_per_epoch: int) -> int:
    """Steps at the constant low rate: none in a run no longer than its warm-up."""
    warmup = config.warmup_epochs * steps_per_epoch
    return warmup if warmup < num_steps else 0
