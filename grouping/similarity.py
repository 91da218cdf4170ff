"""How far the tasks' gradients agree, with standard errors.

Two tasks that are measured on the same images share their sampling noise, and a small noisy task looks unlike everyone.
So a similarity is cross-fitted: one half of a task's microbatches against the other half of another task's, never the
same data on both sides, divided by how well each task's halves agree with each other (its split-half reliability).

Everything is computed from inner products, one snapshot at a time, and averages over snapshots are taken over sorted
values, so the order of the snapshots cannot change a single bit. This module knows no names, groups or configs.
"""

# S snapshots, R microbatches, T tasks, P parameters of the generated prompts

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

MIN_RELIABILITY = 0.02
"""Reliabilities below this are not divided by: the quotient would be noise."""
MAX_FOLDS = 8
"""More microbatches than this are averaged into this many, which bounds the number of half splits (35 for 8)."""
_COLUMNS = 8192

Matrices = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Similarity:
    """What the gradients say about every pair of tasks; all matrices are [tasks, tasks] and symmetric."""

    similarity_TT: np.ndarray
    """Reported similarity in [-1, 1], diagonal 1."""
    standard_error_TT: np.ndarray | None
    """Jackknife standard error of the similarity before clipping; None with too little data to leave some out."""
    numerator_TT: np.ndarray
    """Cross-fitted numerator with reliabilities on the diagonal (for `cosine`: the cosine itself)."""
    cosine_TT: np.ndarray
    """Plain cosine of the microbatch means, averaged over snapshots."""
    projected_TT: np.ndarray
    """The same cosine after each snapshot's mean direction is taken out, for the test of structure."""
    reliability_T: np.ndarray | None
    """Agreement of a task with itself on other data; None with a single microbatch."""


def unusable_tasks(gradients: np.ndarray) -> dict[int, str]:
    """Tasks without a direction at some snapshot, with the reason.  [snapshots, microbatches, tasks, params]"""
    reasons: dict[int, str] = {}
    finite_SRT = np.asarray(np.isfinite(gradients).all(axis=3))
    zero_SRT = np.asarray(~gradients.any(axis=3))
    for task in range(gradients.shape[2]):
        for bad_SR, words in ((~finite_SRT[:, :, task], "not finite"), (zero_SRT[:, :, task], "zero")):
            if bad_SR.any() and task not in reasons:
                reasons[task] = f"its gradient is {words} in {int(bad_SR.sum())} of {bad_SR.size} measurements"
    return reasons


def cross_fit(gradients: np.ndarray) -> Similarity:
    """Cross-fitted similarity.  [snapshots, microbatches >= 2, tasks, params]; every gradient finite and non-zero.

    Per snapshot and per split of the microbatches into halves A and B, with u = 1 / sqrt(|A_t| |B_t|):
    numerator_ij = 1/2 (A_i.B_j + B_i.A_j) u_i u_j, whose diagonal is the split-half reliability. Averaged over all
    splits into (nearly) equal halves and over snapshots; the similarity divides by sqrt(reliability_i reliability_j).
    """
    if gradients.shape[1] < 2:
        raise ValueError(
            "Cross-fitted similarity compares different microbatches, and the gradients hold 1 a snapshot. "
            "Use profile.microbatches of at least 2, or `similarity: cosine`."
        )
    grams = _grams(gradients)
    numerator_TT = _mean([_halves(gram) for gram in grams])
    reliability_T = np.diagonal(numerator_TT).copy()
    similarity_TT = np.clip(_corrected(numerator_TT), -1.0, 1.0)
    np.fill_diagonal(similarity_TT, 1.0)
    return Similarity(
        similarity_TT=similarity_TT,
        standard_error_TT=_standard_error(grams, _halves, _corrected, min_microbatches=2),
        numerator_TT=numerator_TT,
        cosine_TT=_mean([_cosine(gram) for gram in grams]),
        projected_TT=_mean([_projected(_cosine(gram)) for gram in grams]),
        reliability_T=reliability_T,
    )


def mean_cosine(gradients: np.ndarray) -> Similarity:
    """The paper's similarity: mean cosine over snapshots.  [snapshots, microbatches, tasks, params]"""
    grams = _grams(gradients)
    cosine_TT = _mean([_cosine(gram) for gram in grams])
    reliability_T = None
    if gradients.shape[1] >= 2:
        reliability_T = np.diagonal(_mean([_halves(gram) for gram in grams])).copy()
    return Similarity(
        similarity_TT=cosine_TT,
        standard_error_TT=_standard_error(grams, _cosine, np.asarray, min_microbatches=1),
        numerator_TT=cosine_TT,
        cosine_TT=cosine_TT,
        projected_TT=_mean([_projected(_cosine(gram)) for gram in grams]),
        reliability_T=reliability_T,
    )


def _grams(gradients: np.ndarray) -> list[np.ndarray]:
    """Inner products of all microbatch gradients, one [R, T, R, T] float64 array a snapshot."""
    largest_T = np.abs(gradients).max(axis=(0, 1, 3)).astype(np.float64)
    # A power of two changes no digit, so only the range is brought near 1 and squares cannot overflow.
    scale_T = np.ldexp(1.0, -np.frexp(largest_T)[1])
    grams = []
    for snapshot_RTP in gradients:
        num_microbatches, num_tasks, num_params = snapshot_RTP.shape
        rows = num_microbatches * num_tasks
        total = np.zeros((rows, rows))
        for start in range(0, num_params, _COLUMNS):
            block = snapshot_RTP[:, :, start : start + _COLUMNS].astype(np.float64) * scale_T[:, None]
            block = block.reshape(rows, -1)
            total += block @ block.T
        grams.append(_fold(total.reshape(num_microbatches, num_tasks, num_microbatches, num_tasks)))
    return grams


def _fold(gram_RTRT: np.ndarray) -> np.ndarray:
    """The same inner products for at most `MAX_FOLDS` averaged microbatches."""
    num_microbatches = gram_RTRT.shape[0]
    if num_microbatches <= MAX_FOLDS:
        return gram_RTRT
    fold_FR = np.zeros((MAX_FOLDS, num_microbatches))
    fold_FR[np.arange(num_microbatches) % MAX_FOLDS, np.arange(num_microbatches)] = 1.0
    fold_FR /= fold_FR.sum(axis=1, keepdims=True)
    return np.einsum("fr,rtqu,gq->ftgu", fold_FR, gram_RTRT, fold_FR, optimize=True)


def _halves(gram_RTRT: np.ndarray) -> np.ndarray:
    """Cross-fitted numerator of one snapshot, the mean over all splits into halves.  -> [T, T]"""
    microbatches = range(gram_RTRT.shape[0])
    size = len(microbatches) // 2
    splits = [half for half in combinations(microbatches, size) if 2 * size < len(microbatches) or 0 in half]
    total_TT = np.zeros((gram_RTRT.shape[1],) * 2)
    for half in splits:
        a, b = list(half), [r for r in microbatches if r not in half]
        cross_TT = gram_RTRT[a][:, :, b].mean(axis=(0, 2))
        square_A = np.diagonal(gram_RTRT[a][:, :, a].mean(axis=(0, 2)))
        square_B = np.diagonal(gram_RTRT[b][:, :, b].mean(axis=(0, 2)))
        unit_T = _inverse(np.sqrt(np.sqrt(square_A) * np.sqrt(square_B)))
        total_TT += 0.5 * (cross_TT + cross_TT.T) * np.outer(unit_T, unit_T)
    return total_TT / len(splits)


def _cosine(gram_RTRT: np.ndarray) -> np.ndarray:
    """Cosine of the tasks' mean gradients in one snapshot.  -> [T, T]"""
    mean_TT = gram_RTRT.mean(axis=(0, 2))
    unit_T = _inverse(np.sqrt(np.diagonal(mean_TT)))
    cosine_TT = np.clip(0.5 * (mean_TT + mean_TT.T) * np.outer(unit_T, unit_T), -1.0, 1.0)
    np.fill_diagonal(cosine_TT, 1.0)
    return cosine_TT


def _projected(cosine_TT: np.ndarray) -> np.ndarray:
    """The cosines that are left once the mean of the unit gradients is projected out."""
    along_T, square = cosine_TT.mean(axis=1), cosine_TT.mean()
    rest_TT = cosine_TT if square < 1e-12 else cosine_TT - np.outer(along_T, along_T) / square
    unit_T = _inverse(np.sqrt(np.maximum(np.diagonal(rest_TT), 0.0)))
    return np.clip(rest_TT * np.outer(unit_T, unit_T), -1.0, 1.0)


def _corrected(numerator_TT: np.ndarray) -> np.ndarray:
    root_T = np.sqrt(np.maximum(np.diagonal(numerator_TT), MIN_RELIABILITY))
    return numerator_TT / np.outer(root_T, root_T)


def _standard_error(
    grams: list[np.ndarray], statistic: Matrices, finish: Matrices, *, min_microbatches: int
) -> np.ndarray | None:
    """Jackknife standard error of `finish(mean over snapshots of statistic)`, [T, T] with a zero diagonal.

    With three snapshots or more, one snapshot is left out at a time: that sees the sampling noise and how much the
    similarity drifts in training. (Leaving out single microbatches sees no drift, and twice the noise variance with
    four microbatches, because products of noise with noise count more in what is left.) With fewer snapshots, one
    microbatch of one snapshot is left out at a time. None where neither can be done.
    """
    whole = [statistic(gram) for gram in grams]
    others = [whole[:s] + whole[s + 1 :] for s in range(len(grams))]
    num_microbatches = grams[0].shape[0]
    if len(grams) >= 3:
        left_out = [finish(_mean(rest)) for rest in others]
    elif num_microbatches > min_microbatches:
        kept = [[q for q in range(num_microbatches) if q != r] for r in range(num_microbatches)]
        left_out = [
            finish(_mean([*rest, statistic(gram[some][:, :, some])]))
            for rest, gram in zip(others, grams, strict=True)
            for some in kept
        ]
    else:
        left_out = [finish(_mean(rest)) for rest in others if rest]
    if len(left_out) < 2:
        return None
    values = np.sort(np.stack(left_out), axis=0)
    error_TT = np.sqrt((len(values) - 1) * values.var(axis=0))
    np.fill_diagonal(error_TT, 0.0)
    return error_TT


def _mean(matrices: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.stack(matrices), axis=0).mean(axis=0)


def _inverse(norms: np.ndarray) -> np.ndarray:
    """1 / norm, and 0 where halves cancel exactly: such a half agrees with nobody."""
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
