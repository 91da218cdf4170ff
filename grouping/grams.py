"""Inner products of task gradients, and what follows from them in one snapshot.

Everything the similarities need is in the Gram matrix of a snapshot's microbatch gradients, so the gradients themselves
are read once.  Two tasks measured on the same images share their sampling noise; the cross-fitted numerator therefore
never has the same data on both sides (the idea of cross-fitting is that of Chernozhukov et al. 2018, "Double/debiased
machine learning"; split-half reliability is Spearman's and Brown's, 1910).
"""

# S snapshots, R microbatches, T tasks, P parameters of the generated prompts, B blocks of P

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

MAX_FOLDS = 8
"""More microbatches than this are averaged into this many, which bounds the number of half splits (35 for 8)."""
_COLUMNS = 8192


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


def scales(gradients: np.ndarray) -> np.ndarray:
    """A power of two per task that brings its gradients near 1: squares cannot overflow, and no digit changes.  [T]"""
    largest_T = np.abs(gradients).max(axis=(0, 1, 3)).astype(np.float64)
    return np.ldexp(1.0, -np.frexp(largest_T)[1])


def block_grams(
    gradients: np.ndarray, scale_T: np.ndarray, offsets: np.ndarray | None = None
) -> Iterator[list[np.ndarray]]:
    """Per snapshot, the inner products of each block of parameters, [R, T, R, T] float64; their sum is the whole."""
    num_params = gradients.shape[3]
    edges = [0, num_params] if offsets is None else [int(edge) for edge in offsets]
    for snapshot_RTP in gradients:
        blocks = []
        for start, stop in pairwise(edges):
            rows = snapshot_RTP.shape[0] * snapshot_RTP.shape[1]
            total = np.zeros((rows, rows))
            for at in range(start, stop, _COLUMNS):
                part = snapshot_RTP[:, :, at : min(at + _COLUMNS, stop)].astype(np.float64) * scale_T[:, None]
                part = part.reshape(rows, -1)
                total += part @ part.T
            blocks.append(_fold(total.reshape(*snapshot_RTP.shape[:2], *snapshot_RTP.shape[:2])))
        yield blocks


def split_norms(gram_RTRT: np.ndarray) -> list[np.ndarray]:
    """1 / sqrt(|A_t| |B_t|) of every split of the microbatches into halves A and B.  -> [T] each"""
    norms = []
    for a, b in half_splits(gram_RTRT.shape[0]):
        square_A = np.diagonal(gram_RTRT[a][:, :, a].mean(axis=(0, 2)))
        square_B = np.diagonal(gram_RTRT[b][:, :, b].mean(axis=(0, 2)))
        norms.append(_inverse(np.sqrt(np.sqrt(square_A) * np.sqrt(square_B))))
    return norms


def halves(gram_RTRT: np.ndarray, norms: list[np.ndarray] | None = None) -> np.ndarray:
    """Cross-fitted numerator of one snapshot, the mean over all splits into halves.  -> [T, T]

    1/2 (A_i.B_j + B_i.A_j) u_i u_j with u = 1 / sqrt(|A| |B|); the diagonal is the split-half reliability.  With the
    norms of the whole, the numerators of blocks of parameters add up to that of the whole, exactly.
    """
    splits = half_splits(gram_RTRT.shape[0])
    total_TT = np.zeros((gram_RTRT.shape[1],) * 2)
    for (a, b), unit_T in zip(splits, split_norms(gram_RTRT) if norms is None else norms, strict=True):
        cross_TT = gram_RTRT[a][:, :, b].mean(axis=(0, 2))
        total_TT += 0.5 * (cross_TT + cross_TT.T) * np.outer(unit_T, unit_T)
    return total_TT / len(splits)


def half_splits(num_microbatches: int) -> list[tuple[list[int], list[int]]]:
    """Every split of the microbatches into two (nearly) equal halves."""
    size = num_microbatches // 2
    chosen = [half for half in combinations(range(num_microbatches), size) if 2 * size < num_microbatches or 0 in half]
    return [(list(half), [r for r in range(num_microbatches) if r not in half]) for half in chosen]


def cosine(gram_RTRT: np.ndarray) -> np.ndarray:
    """Cosine of the tasks' mean gradients in one snapshot.  -> [T, T]"""
    mean_TT = gram_RTRT.mean(axis=(0, 2))
    unit_T = _inverse(np.sqrt(np.diagonal(mean_TT)))
    cosine_TT = np.clip(0.5 * (mean_TT + mean_TT.T) * np.outer(unit_T, unit_T), -1.0, 1.0)
    np.fill_diagonal(cosine_TT, 1.0)
    return cosine_TT


def projected(cosine_TT: np.ndarray) -> np.ndarray:
    """The cosines that are left once the mean of the unit gradients is projected out."""
    along_T, square = cosine_TT.mean(axis=1), cosine_TT.mean()
    rest_TT = cosine_TT if square < 1e-12 else cosine_TT - np.outer(along_T, along_T) / square
    unit_T = _inverse(np.sqrt(np.maximum(np.diagonal(rest_TT), 0.0)))
    return np.clip(rest_TT * np.outer(unit_T, unit_T), -1.0, 1.0)


def noise_alignment(gram_RTRT: np.ndarray) -> np.ndarray:
    """Squared cosines of independent noise: their mean is 1 / effective dimension, tr(C^2) / tr(C)^2 of the noise.

    Differences of microbatches hold noise alone.  With four microbatches two differences of one task are compared;
    with fewer, those of two tasks, whose mean square is read from the median because some may share their data.
    """
    num = gram_RTRT.shape[0]
    if num < 2:
        return np.empty(0)
    pairs = [(r, r + 1) for r in range(0, num - 1, 2)]
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    noise = (
        gram_RTRT[first][:, :, first]
        - gram_RTRT[first][:, :, second]
        - gram_RTRT[second][:, :, first]
        + gram_RTRT[second][:, :, second]
    )  # [pairs, T, pairs, T]
    if len(pairs) > 1:
        own = np.stack([noise[:, t, :, t] for t in range(noise.shape[1])])
        size = np.sqrt(np.maximum(np.diagonal(own, axis1=1, axis2=2), 0.0))
        rows, columns = np.triu_indices(len(pairs), k=1)
        squares = (own * _inverse(size)[:, :, None] * _inverse(size)[:, None, :]) ** 2
        return squares[:, rows, columns].ravel()
    unit_T = _inverse(np.sqrt(np.maximum(np.diagonal(noise[0, :, 0]), 0.0)))
    squares = (noise[0, :, 0] * np.outer(unit_T, unit_T)) ** 2
    between = squares[np.triu_indices(len(unit_T), k=1)]
    return np.array([np.median(between) / 0.455]) if len(between) else between  # 0.455: median of a squared normal


def sorted_mean(matrices: list[np.ndarray] | np.ndarray) -> np.ndarray:
    """The mean over the first axis, the same to the bit in whatever order they come."""
    rows = [np.array(matrix) for matrix in matrices]
    if len(rows) > 8:
        return np.sort(np.stack(rows), axis=0).mean(axis=0)
    # Odd-even transpositions of whole matrices: for a few of them much quicker than sorting every entry's values.
    for first in range(len(rows)):
        for low in range(first % 2, len(rows) - 1, 2):
            smaller = np.minimum(rows[low], rows[low + 1])
            np.maximum(rows[low], rows[low + 1], out=rows[low + 1])
            rows[low] = smaller
    return np.mean(rows, axis=0)


def _fold(gram_RTRT: np.ndarray) -> np.ndarray:
    """The same inner products for at most `MAX_FOLDS` averaged microbatches."""
    num_microbatches = gram_RTRT.shape[0]
    if num_microbatches <= MAX_FOLDS:
        return gram_RTRT
    fold_FR = np.zeros((MAX_FOLDS, num_microbatches))
    fold_FR[np.arange(num_microbatches) % MAX_FOLDS, np.arange(num_microbatches)] = 1.0
    fold_FR /= fold_FR.sum(axis=1, keepdims=True)
    return np.einsum("fr,rtqu,gq->ftgu", fold_FR, gram_RTRT, fold_FR, optimize=True)


def _inverse(norms: np.ndarray) -> np.ndarray:
    """1 / norm, and 0 where halves cancel exactly: such a half agrees with nobody."""
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
