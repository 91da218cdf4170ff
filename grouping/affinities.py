"""Affinities side by side: what else could say who belongs together, and how far they agree.

The gradients give three of them (cross-fitted, plain cosine, first-order TAG); class names, zero-shot image features
and pure chance know nothing of training, and show what the gradients add.
"""

# T usable tasks

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from grouping.measurement import Measurement
from grouping.similarity import Similarity, cross_fitted, plain_cosine, reliabilities, sorted_mean
from grouping.spectral import spectral_labels

NAMES = ("cross_fit", "cosine", "tag", "text", "image", "random")


class Agreement(BaseModel):
    """How two affinities agree on this job."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    first: str
    second: str
    spearman: float | None
    """Rank correlation over all pairs of tasks; null where one of them says the same of all pairs."""
    rand_index: float
    """Adjusted Rand index of their partitions into as many groups as the plan has (two where it has one or all)."""


def affinity(measurement: Measurement, name: str, *, seed: int) -> Similarity:
    """The affinity of that name over the usable tasks; refused where the profile did not keep what it needs."""
    if name == "cross_fit":
        return cross_fitted(measurement)
    if name == "cosine":
        return plain_cosine(measurement)
    given: dict[str, Callable[[], np.ndarray | None]] = {
        "tag": lambda: _tag(measurement),
        "text": lambda: measurement.text_TT,
        "image": lambda: measurement.image_TT,
        "random": lambda: _random(len(measurement.usable), seed),
    }
    values_TT = given[name]()
    if values_TT is None:
        needs = {"tag": "the tasks' losses", "text": "text_centroids", "image": "image_centroids"}[name]
        raise ValueError(f"GroupingConfig: similarity={name} needs {needs}, which were not measured. Use `cross_fit`.")
    values_TT = np.array(values_TT)
    np.fill_diagonal(values_TT, 1.0)
    cosine_TT = sorted_mean(measurement.cosines_STT)
    return Similarity(values_TT, None, values_TT, cosine_TT, cosine_TT, reliabilities(measurement))


def agreements(measurement: Measurement, num_groups: int, *, seed: int) -> list[Agreement]:
    """Every pair of affinities that could be had; needs three tasks."""
    num_tasks = len(measurement.usable)
    if num_tasks < 3:
        return []
    count = num_groups if 1 < num_groups < num_tasks else 2
    values, labels = {}, {}
    for name in NAMES:
        try:
            measured = affinity(measurement, name, seed=seed)
        except ValueError:
            continue
        values[name] = np.round(measured.similarity_TT[np.triu_indices(num_tasks, k=1)], 12)
        found = spectral_labels(measured.numerator_TT, count, seed=seed)
        labels[name] = np.zeros(num_tasks, dtype=int) if found is None else found
    had = list(values)
    return [
        Agreement(
            first=a,
            second=b,
            spearman=_spearman(values[a], values[b]),
            rand_index=float(adjusted_rand_score(labels[a], labels[b])),
        )
        for i, a in enumerate(had)
        for b in had[i + 1 :]
    ]


def lookahead(measurement: Measurement) -> np.ndarray | None:
    """First-order TAG, asymmetric: by what share a unit step for the row's task lowers the column's loss.  [T, T]

    Fifty et al. 2021 measure 1 - L_j(theta - lr g_i) / L_j; to first order that is lr <g_i, g_j> / L_j.
    """
    return None if measurement.products_STT is None else sorted_mean(measurement.products_STT)


def _tag(measurement: Measurement) -> np.ndarray | None:
    """Lookahead on a common scale: z-scores over the sources of every target, made symmetric, within [-1, 1].

    Raw values carry each target's loss and gradient norm, which would group tasks by scale.
    """
    effect_TT = lookahead(measurement)
    if effect_TT is None or len(effect_TT) < 2:
        return effect_TT
    off = ~np.eye(len(effect_TT), dtype=bool)
    mean_T = effect_TT.mean(axis=0, where=off)
    spread_T = np.maximum(effect_TT.std(axis=0, where=off), 1e-12 * np.abs(effect_TT).max() + 1e-300)
    scores_TT = (effect_TT - mean_T) / spread_T if len(effect_TT) > 2 else np.sign(effect_TT)
    symmetric_TT = 0.5 * (scores_TT + scores_TT.T)
    return symmetric_TT / max(float(np.abs(symmetric_TT[off]).max()), 1e-12)


def _random(num_tasks: int, seed: int) -> np.ndarray:
    values_TT = np.random.default_rng(seed).uniform(-1, 1, (num_tasks, num_tasks))
    return np.triu(values_TT, k=1) + np.triu(values_TT, k=1).T


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]
