"""Spectral grouping of thousands of tasks, without a matrix of all pairs.

The cross-fitted numerator of N tasks is M = 1/(2S) sum_s (A_s B_s' + B_s A_s') with unit halves A_s, B_s [N, P]. Its
leading eigenvectors come from products with thin matrices alone (randomised subspace iteration: Halko, Martinsson and
Tropp 2011), so time and memory grow with N P, not with N squared.

What comes out is groups and nothing else: a whole `Plan` (verdict, similarities, reasons) is made of all pairs, which
is sensible up to about 3,000 tasks, and a job of the service holds at most 1,000.
"""

# S snapshots, R microbatches, N tasks, P parameters, K groups

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.linalg import qr
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from grouping.grams import unusable_tasks
from grouping.measurement import check_gradients

_MIN_RELIABILITY = 0.02
_OVERSAMPLING = 16
_ROUNDS = 3
_REGROUPINGS = 5


class Factor:
    """The numerator matrix in factored form; fp32 throughout, which is exact enough for thousands of directions."""

    def __init__(self, gradients: np.ndarray) -> None:
        """[snapshots, microbatches >= 2, tasks, params]; every gradient finite and non-zero."""
        if gradients.shape[1] < 2:
            raise ValueError("Cross-fitting needs at least 2 microbatches a snapshot, and there is 1.")
        self.halves: list[tuple[np.ndarray, np.ndarray]] = []
        for snapshot in gradients:
            a = snapshot[0::2].mean(axis=0, dtype=np.float32)
            b = snapshot[1::2].mean(axis=0, dtype=np.float32)
            norm_N = np.sqrt(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))[:, None]
            self.halves.append((a / np.maximum(norm_N, 1e-30), b / np.maximum(norm_N, 1e-30)))
        self.reliability_N = np.mean([np.einsum("np,np->n", a, b) for a, b in self.halves], axis=0)

    def times(self, columns: np.ndarray) -> np.ndarray:
        """The matrix times thin columns.  [N, k] -> [N, k]"""
        total = np.zeros_like(columns)
        for a, b in self.halves:
            total += a @ (b.T @ columns)
            total += b @ (a.T @ columns)
        return total / (2 * len(self.halves))

    def to_groups(self, labels: np.ndarray) -> np.ndarray:
        """Sum of the numerators with every group's members, the task itself left out.  -> [N, K]"""
        members_NK = np.zeros((len(labels), labels.max() + 1), dtype=np.float32)
        members_NK[np.arange(len(labels)), labels] = 1.0
        sums_NK = self.times(members_NK)
        sums_NK[np.arange(len(labels)), labels] -= self.reliability_N
        return sums_NK


def factor_labels(gradients: np.ndarray, num_groups: int, *, seed: int) -> np.ndarray:
    """One label a task for (at most) `num_groups` groups.  [snapshots, microbatches >= 2, tasks, params] -> [tasks]"""
    return _labels(Factor(gradients), num_groups, seed)


def group_many(
    gradients: np.ndarray, task_names: Sequence[str], num_groups: int, *, seed: int = 0
) -> dict[str, list[str]]:
    """Group ids and their tasks, for more tasks than a plan with all pairs can hold (about 3,000).

    The number of groups must be given, and limits are not heard. Unusable tasks are refused by name.
    """
    check_gradients(gradients, task_names)
    if not 1 <= num_groups <= len(task_names):
        raise ValueError(f"num_groups={num_groups} must be between 1 and the {len(task_names)} tasks of this job.")
    bad = unusable_tasks(gradients)
    if bad:
        named = "; ".join(f"'{task_names[task]}': {reason}" for task, reason in list(bad.items())[:3])
        raise ValueError(f"{len(bad)} tasks have no usable gradient ({named}). Leave them out.")
    labels = factor_labels(gradients, num_groups, seed=seed)
    order = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    groups = sorted(sorted(task_names[task] for task in tasks) for tasks in order)
    return {f"g{number}": tasks for number, tasks in enumerate(groups, start=1)}


def _labels(factor: Factor, num_groups: int, seed: int) -> np.ndarray:
    num_tasks = len(factor.reliability_N)
    if num_groups == 1:
        return np.zeros(num_tasks, dtype=int)
    if num_groups == num_tasks:
        return np.arange(num_tasks)
    rows_NK = _leading_rows(factor, num_groups, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # tasks that coincide leave fewer groups
        # Pivoted QR picks rows that point as far apart as can be, one a group (Damle, Minden and Ying 2019).
        *_, pivots = qr(rows_NK.T, mode="r", pivoting=True, check_finite=False)
        starts = rows_NK[np.asarray(pivots)[:num_groups]]
        model = KMeans(num_groups, init=starts, n_init=1, max_iter=50)  # pyright: ignore[reportArgumentType]
        labels = np.unique(model.fit_predict(rows_NK), return_inverse=True)[1]
        for _ in range(_REGROUPINGS):
            if not _regroup(factor, rows_NK, labels, seed):
                break
    return _settle(factor, labels)


def _leading_rows(factor: Factor, count: int, seed: int) -> np.ndarray:
    """The tasks in the span of the leading eigenvectors, scaled to length one.  -> [N, count]"""
    num_tasks = len(factor.reliability_N)
    width = min(num_tasks, count + _OVERSAMPLING)
    basis = np.random.default_rng(seed).standard_normal((num_tasks, width), dtype=np.float32)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(factor.times(basis))[0]
    image = factor.times(basis)
    values, vectors = np.linalg.eigh(basis.T @ image)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    rows = (basis @ vectors) * np.sqrt(np.where(values > 1e-6 * values[0], values, 0.0))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-12)


def _regroup(factor: Factor, rows_NK: np.ndarray, labels: np.ndarray, seed: int) -> bool:
    """Joins halves of one group and parts two groups in one, in place; whether there were any.

    Among hundreds of groups k-means leaves some of both kinds. Two groups that agree with each other more than a third
    agrees with itself are joined, and the third is parted in two: that raises the agreement within.
    """
    sizes_K = np.bincount(labels)
    members_NK = (labels[:, None] == np.arange(len(sizes_K))).astype(np.float32)
    root_N = np.sqrt(np.maximum(factor.reliability_N, _MIN_RELIABILITY))
    weight_K = root_N @ members_NK
    pairs_KK = np.outer(weight_K, weight_K) - np.diag(root_N**2 @ members_NK)
    agreed_KK = members_NK.T @ factor.to_groups(labels) / np.maximum(pairs_KK, 1e-6)
    coherence_K = np.where(sizes_K > 1, np.diagonal(agreed_KK), np.inf)
    np.fill_diagonal(agreed_KK, -np.inf)
    busy: set[int] = set()
    for flat in np.argsort(-agreed_KK, axis=None)[: 4 * len(sizes_K)]:
        keep, gone = divmod(int(flat), len(sizes_K))
        loose = next((int(k) for k in np.argsort(coherence_K) if k not in busy | {keep, gone}), None)
        if loose is None or agreed_KK[keep, gone] <= coherence_K[loose]:
            break
        if keep in busy or gone in busy:
            continue
        busy.add(loose)
        parted = np.flatnonzero(labels == loose)
        halves = KMeans(2, n_init=3, random_state=seed)  # pyright: ignore[reportArgumentType]
        second = parted[halves.fit_predict(rows_NK[parted]) == 1]
        if len(second):  # none where the tasks coincide
            busy |= {keep, gone}
            labels[labels == gone] = keep
            labels[second] = gone
    return bool(busy)


def _settle(factor: Factor, labels: np.ndarray) -> np.ndarray:
    """Two rounds of moving every task to the group it agrees with most, on the whole numerator."""
    root_N = np.sqrt(np.maximum(factor.reliability_N, _MIN_RELIABILITY))
    tasks = np.arange(len(labels))
    for _ in range(2):
        weight_K = np.bincount(labels, weights=root_N)
        weight_NK = np.broadcast_to(weight_K, (len(labels), len(weight_K))).astype(np.float32)
        weight_NK[tasks, labels] -= root_N
        agreement_NK = np.where(weight_NK > 1e-6, factor.to_groups(labels) / np.maximum(weight_NK, 1e-6), -np.inf)
        moved = np.where(np.bincount(labels)[labels] == 1, labels, np.argmax(agreement_NK, axis=1))
        if len(np.unique(moved)) < len(weight_K):
            break
        labels = moved
    return labels
