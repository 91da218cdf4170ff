"""How much better some tasks do one way than another, and how sure that is: the paired bootstrap over images.

Both ways scored the same images, so an image that is easy for both tells nothing, and the interval rests on the images
where they differ.  Says nothing about another seed or another draw of training images: only images are resampled.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

CONFIDENCE = 0.95


class Gain(BaseModel):
    """A mean difference of scores with its interval; above 0 the first way is better."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    mean: float
    """Mean over tasks of the mean difference over a task's images."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    num_tasks: int
    num_images: int
    """Images of all tasks together."""

    @property
    def is_harm(self) -> bool:
        """The whole interval lies below 0."""
        return self.high < 0

    @property
    def is_gain(self) -> bool:
        """The whole interval lies above 0."""
        return self.low > 0


def paired_gain(
    own: Mapping[str, Sequence[float]],
    other: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Gain:
    """By how much `own` beats `other`: task -> one score per image, the same images in the same order.

    Images are resampled within their task and every task counts the same.  Two imagined images, one for and one
    against by the largest difference seen, are spread over the tasks: they keep a handful of images from proving
    anything, as a plain bootstrap of few images would (Agresti and Min, Statistics in Medicine 2005).  ValueError where
    tasks or numbers of images differ, or a score is no number.
    """
    tasks = sorted(own)
    if not tasks or tasks != sorted(other):
        raise ValueError(
            f"paired_gain: scores of the tasks {tasks} and {sorted(other)} given. Give the same, at least one."
        )
    random = np.random.default_rng(seed)
    mean, resampled, num_images = 0.0, np.zeros(resamples), 0
    for task in tasks:
        differences = _differences(task, own[task], other[task])
        mean += float(differences.mean()) / len(tasks)
        resampled += _resampled_means(differences, random, resamples, imagined=1 / len(tasks)) / len(tasks)
        num_images += len(differences)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Gain(
        mean=mean, low=min(float(low), mean), high=max(float(high), mean), num_tasks=len(tasks), num_images=num_images
    )


def task_gains(
    own: Mapping[str, Sequence[float]],
    other: Mapping[str, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Gain]:
    """The gain of every task by itself."""
    return {
        task: paired_gain({task: own[task]}, {task: other[task]}, seed=seed, resamples=resamples)
        for task in sorted(own)
    }


def _differences(task: str, own: Sequence[float], other: Sequence[float]) -> np.ndarray:
    first, second = np.asarray(own, dtype=float), np.asarray(other, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(
            f"Task {task!r}: {first.size} and {second.size} scores given. Give one score for each of the same images."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(f"Task {task!r}: a score is no number. Give finite scores.")
    return first - second


def _resampled_means(
    differences: np.ndarray, random: np.random.Generator, resamples: int, imagined: float
) -> np.ndarray:
    """Means of as many images drawn with replacement: how often is each distinct difference drawn?  -> [resamples]"""
    values, counts = np.unique(differences, return_counts=True)
    largest = float(np.abs(values).max())
    values, counts = np.append(values, [-largest, largest]), np.append(counts, [imagined, imagined])
    return random.multinomial(len(differences), counts / counts.sum(), size=resamples) @ values / len(differences)
