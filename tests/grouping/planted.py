"""Gradients with a known answer.

Task t belongs to group labels[t]. Per snapshot, its true gradient is c_label + u_t + gamma * m with random unit
vectors (c for a group, u its own, m common to all); the mean of all microbatches carries noise of norm sigma. So the
true cosine is (1 + gamma^2) / (2 + gamma^2) inside a group and gamma^2 / (2 + gamma^2) outside.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from grouping.similarity import cross_fit
from grouping.structure import pair_threshold


def planted(
    labels: Sequence[int] | np.ndarray,
    *,
    sigma: float | Sequence[float] | np.ndarray = 0.0,
    gamma: float = 0.0,
    num_snapshots: int = 5,
    num_microbatches: int = 2,
    num_params: int = 200,
    shared_noise: float = 0.0,
    sources: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """[snapshots, microbatches, tasks, params]; `shared_noise` of the noise variance is common to tasks of a source."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    num_tasks = len(labels)
    sigma_T = np.broadcast_to(np.asarray(sigma, dtype=float), (num_tasks,))
    gradients = np.empty((num_snapshots, num_microbatches, num_tasks, num_params))
    for s in range(num_snapshots):
        centres = unit(rng.standard_normal((labels.max() + 1, num_params)))
        own = unit(rng.standard_normal((num_tasks, num_params)))
        common = unit(rng.standard_normal(num_params))
        signal = centres[labels] + own + gamma * common
        for r in range(num_microbatches):
            noise = rng.standard_normal((num_tasks, num_params))
            if sources is not None:
                of_source = rng.standard_normal((max(sources) + 1, num_params))[np.asarray(sources)]
                noise = np.sqrt(1 - shared_noise) * noise + np.sqrt(shared_noise) * of_source
            scale = sigma_T * np.sqrt(num_microbatches / num_params)
            gradients[s, r] = signal + noise * scale[:, None]
    return gradients


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def partitions(count: int) -> Iterator[np.ndarray]:
    """All set partitions, as restricted growth strings."""

    def grow(labels: list[int]) -> Iterator[np.ndarray]:
        if len(labels) == count:
            yield np.array(labels)
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow([*labels, label])

    yield from grow([])


def random_weights(count: int, seed: int) -> np.ndarray:
    """Symmetric normal pair weights."""
    weights = np.random.default_rng(seed).standard_normal((count, count))
    return np.triu(weights, k=1) + np.triu(weights, k=1).T


def planted_weights(count: int, num_groups: int, sigma: float, seed: int) -> np.ndarray:
    """How far the pairs of a planted job speak for sharing a group."""
    similarity = cross_fit(planted(np.arange(count) % num_groups, sigma=sigma, seed=seed)).similarity_TT
    weights = similarity - pair_threshold(similarity[np.triu_indices(count, k=1)])
    np.fill_diagonal(weights, 0.0)
    return weights
