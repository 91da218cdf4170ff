"""What a group's training will cost in seconds, learned from groups that have finished.

A step costs something by itself, something for every training image and something for every class sentence.  None of
the three can be negative, and where the finished groups are all alike they cannot be told apart: then the seconds go
by the images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

FADING = 0.99
"""Weight of a finished group, relative to the one that finished after it: machines and neighbours change."""
PRIOR = 0.05
"""Weight of the rule that seconds go by the images alone, relative to one finished group."""


@dataclass(frozen=True)
class Step:
    """One optimiser step of a finished group, on average."""

    images: int
    texts: int
    """Class sentences of the group's tasks."""
    seconds: float


@dataclass(frozen=True)
class CostModel:
    """Seconds of a step: `per_step + per_image * images + per_text * texts`."""

    per_step: float
    per_image: float
    per_text: float
    num_groups: int
    """Finished groups that it was learned from."""

    def seconds(self, images: int, texts: int) -> float:
        """Of one step."""
        return self.per_step + self.per_image * images + self.per_text * texts


def learn(steps: Sequence[Step]) -> CostModel | None:
    """The model that fits finished groups best in relative error, `steps` oldest first; None without any.

    Non-negative least squares (Lawson and Hanson 1974).
    """
    known = [step for step in steps if step.images > 0 and step.seconds > 0]
    if not known:
        return None
    seconds_N = np.array([step.seconds for step in known])
    features_N3 = np.array([[1.0, step.images, step.texts] for step in known])
    scale_3 = np.maximum(features_N3.mean(axis=0), 1e-12)
    weight_N = FADING ** np.arange(len(known))[::-1] / seconds_N
    by_images = float(np.median(seconds_N / features_N3[:, 1])) * scale_3[1]
    # Unknowns in units of their mean contribution, so that the prior means the same for all three.
    prior_33 = PRIOR / by_images * np.eye(3)
    rows = np.concatenate([weight_N[:, None] * features_N3 / scale_3, prior_33])
    wanted = np.concatenate([weight_N * seconds_N, prior_33 @ [0.0, by_images, 0.0]])
    per_step, per_image, per_text = nnls(rows, wanted)[0] / scale_3
    return CostModel(float(per_step), float(per_image), float(per_text), len(known))
