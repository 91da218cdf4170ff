"""Signed spectral clustering, the default partitioner.

The cross-fitted numerator, with reliabilities on its diagonal, is close to a Gram matrix of the true task directions.
Its leading eigenvectors are those directions; rows scaled to length one forget how noisy a task is. Dividing by small
reliabilities first would blow the noise up, so that is left to the reported similarity, which only picks the number of
groups. Negative entries are welcome (scikit-learn's SpectralClustering cannot take them).
"""

import warnings

import numpy as np
from scipy.linalg import eigh
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

MAX_GROUPS = 25
"""Most groups that `auto` tries, or half the tasks where that is more."""


def spectral_labels(numerator: np.ndarray, num_groups: int, *, seed: int) -> np.ndarray | None:
    """One label a task for exactly `num_groups` groups; None where rows coincide and allow fewer.  [tasks, tasks]"""
    if num_groups == 1:
        return np.zeros(len(numerator), dtype=int)
    if num_groups == len(numerator):
        return np.arange(num_groups)
    return _cluster(_eigenpairs(numerator, num_groups), num_groups, seed)


def spectral_partition(numerator: np.ndarray, similarity: np.ndarray, *, seed: int) -> np.ndarray:
    """Labels with the number of groups that has the best silhouette on distance 1 - similarity.

    Both [tasks, tasks] with at least three tasks. One group and all alone have no silhouette: the caller compares.
    """
    num_tasks = len(numerator)
    assert num_tasks >= 3
    most = min(num_tasks - 1, max(MAX_GROUPS, num_tasks // 2))
    pairs = _eigenpairs(numerator, most)
    distance = np.clip(1.0 - similarity, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    best, best_score = np.zeros(num_tasks, dtype=int), -np.inf
    for num_groups in range(2, most + 1):
        labels = _cluster(pairs, num_groups, seed)
        if labels is None:
            break
        score = round(float(silhouette_score(distance, labels, metric="precomputed")), 9)
        if score > best_score:  # a tie keeps fewer groups
            best, best_score = labels, score
    return best


def _eigenpairs(numerator: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest eigenvalues and their vectors, largest first."""
    size = len(numerator)
    values, vectors = eigh(numerator, subset_by_index=[size - count, size - 1])
    return values[::-1], vectors[:, ::-1]


def _cluster(pairs: tuple[np.ndarray, np.ndarray], num_groups: int, seed: int) -> np.ndarray | None:
    values, vectors = pairs
    # Directions that carry nothing, and those of negative weight, must not tell tasks apart.
    strength = np.where(values > 1e-9 * values[0], values, 0.0)
    rows = vectors[:, :num_groups] * np.sqrt(np.maximum(strength[:num_groups], 0.0))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # Rounded, so that equal tasks are equal points and cannot be told apart by the last digit.
    rows = np.round(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-12), 9)
    if len(np.unique(rows, axis=0)) < num_groups:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few distinct points: answered by the check below
        model = KMeans(num_groups, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
        labels = model.fit_predict(rows)
    return labels if len(np.unique(labels)) == num_groups else None
