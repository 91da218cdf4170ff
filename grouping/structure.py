"""Whether the tasks fall into groups at all, and the similarity at which two tasks belong together.

At the optimum of the shared prompt the gradients sum to nearly zero, and before it they share one direction, so no
fixed cosine separates friends from strangers: the threshold is learned from all pairs of the job. "No structure" is an
answer too; then the threshold is zero, and all train together unless the gradients plainly oppose each other.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from grouping.similarity import MIN_RELIABILITY, Similarity

MIN_TASKS_FOR_EVIDENCE = 20
"""From here on a mixture may prove structure. Below, tasks of unlike noise look like two kinds of pairs: with 6 tasks
of one group and noise 1 : 3, BIC differences up to 23 were measured."""
MIN_EVIDENCE = 10.0
"""How much better (in BIC) two kinds of pairs must explain the cosines than one kind."""
MIN_EFFECT = 0.1
"""Least spread of the true similarities, as a share of the mean distance 1 - similarity."""
_MAX_PAIRS = 200_000


@dataclass(frozen=True)
class Structure:
    """Is there more than one kind of pair, and where do the kinds part."""

    found: bool
    threshold: float
    """The similarity above which a pair speaks for training together (tau); 0 where the pairs do not part."""


def find_structure(measured: Similarity, *, found: bool = False) -> Structure:
    """Reads verdict and threshold from the reliable pairs; `found` where structure is known already.

    There is structure where the similarities spread clearly more than their standard errors allow, or, with many tasks,
    where a two-component mixture explains the cosines (without their mean direction) much better than one component,
    or where a pair plainly opposes each other, which one group could not serve.
    Two tasks have one pair, which cannot spread.
    """
    num_tasks = len(measured.similarity_TT)
    if num_tasks < 3:
        return Structure(found=False, threshold=0.0)
    rows, columns = np.triu_indices(num_tasks, k=1)
    weight = pair_reliability(measured)[rows, columns]
    reliable = weight >= 0.5 * np.quantile(weight, 0.9)
    similarities = measured.similarity_TT[rows, columns][reliable]
    if not found and num_tasks >= MIN_TASKS_FOR_EVIDENCE:
        found = evidence(measured.projected_TT[rows, columns]) > MIN_EVIDENCE
    if not found and measured.standard_error_TT is not None:
        found = _spread(similarities, measured.standard_error_TT[rows, columns][reliable], num_tasks)
    if found:
        return Structure(found=True, threshold=pair_threshold(similarities))
    return Structure(found=bool(opposed_pairs(measured).any()), threshold=0.0)


def pair_reliability(measured: Similarity) -> np.ndarray:
    """Geometric mean of two tasks' reliabilities, the weight a pair deserves.  -> [tasks, tasks]"""
    if measured.reliability_T is None:
        return np.ones_like(measured.similarity_TT)
    root_T = np.sqrt(np.maximum(measured.reliability_T, MIN_RELIABILITY))
    return np.outer(root_T, root_T)


def opposed_pairs(measured: Similarity) -> np.ndarray:
    """Pairs whose gradients plainly oppose each other: surely below -0.5, all pairs considered.  -> bool [tasks, tasks]

    A pair's own standard error rests on a handful of numbers, so it counts for no less than what the noise of all
    pairs' numerators makes of it; the bound lets one job in a hundred pass by chance (Bonferroni).
    """
    errors = measured.noise / pair_reliability(measured)
    if measured.standard_error_TT is not None:
        errors = np.maximum(errors, measured.standard_error_TT)
    num_pairs = max(len(errors) * (len(errors) - 1) // 2, 1)
    return measured.similarity_TT + norm.isf(0.01 / num_pairs) * errors < -0.5


def pair_threshold(similarities: np.ndarray) -> float:
    """Where near and far pairs part, within the 5-95 % quantiles.  [pairs]

    The point at which the components of a Gaussian mixture are equally likely; with fewer than 15 pairs, too few for a
    mixture, the middle of the two means.
    """
    values = _thin(np.sort(similarities))
    low, high = np.quantile(values, [0.05, 0.95])
    if values[-1] - values[0] < 1e-9:
        return float(values.mean())
    if len(values) < 15:
        return float(np.mean(_two_means(values)))
    mixture = _mixture(values, 2)
    means = np.ravel(np.asarray(mixture.means_))
    order = np.argsort(means)
    grid = np.linspace(means[order[0]], means[order[1]], 1001)
    upper = mixture.predict_proba(grid[:, None])[:, order[1]]
    crossing = grid[int(np.argmin(np.abs(upper - 0.5)))]
    return float(np.clip(crossing, low, high))


def evidence(cosines: np.ndarray) -> float:
    """BIC of one Gaussian minus BIC of two; positive speaks for two kinds of pairs.  [pairs]"""
    values = _thin(np.sort(cosines))
    if values[-1] - values[0] < 1e-9:
        return 0.0
    return float(_mixture(values, 1).bic(values[:, None]) - _mixture(values, 2).bic(values[:, None]))


def _spread(similarities: np.ndarray, errors: np.ndarray, num_tasks: int) -> bool:
    if len(similarities) < 2:
        return False
    variance, noise = float(similarities.var(ddof=1)), float((errors**2).mean())
    effect = np.sqrt(max(variance - noise, 0.0))
    # Pairs that share a task err together, so the noise of the variance falls with the tasks and not with the pairs;
    # with 12, tasks of one group and unrelated tasks passed by chance in 4 of 1,344 planted jobs (5 snapshots).
    return variance > (1 + 12 / num_tasks) * noise and effect > MIN_EFFECT * (1 - float(similarities.mean()))


def _mixture(values: np.ndarray, num_components: int) -> GaussianMixture:
    # Started at the means of the best cut, so the fit depends on the values alone and not on a seed.
    means = [float(values.mean())] if num_components == 1 else _two_means(values)
    floor = max(1e-6, 1e-4 * float(values.var()))
    mixture = GaussianMixture(
        num_components, means_init=np.array(means)[:, None], random_state=0, reg_covar=floor, max_iter=500
    )
    return mixture.fit(values[:, None])


def _two_means(values: np.ndarray) -> list[float]:
    """Means of the two sides of the cut of sorted values that leaves the least variance within."""
    counts = np.arange(1, len(values))
    left = np.cumsum(values)[:-1] / counts
    right = np.cumsum(values[::-1])[::-1][1:] / (len(values) - counts)
    between = counts * (len(values) - counts) * (right - left) ** 2
    best = int(np.argmax(between))
    return [float(left[best]), float(right[best])]


def _thin(sorted_values: np.ndarray) -> np.ndarray:
    """At most `_MAX_PAIRS` of the values, evenly spaced in rank."""
    if len(sorted_values) <= _MAX_PAIRS:
        return sorted_values
    return sorted_values[np.linspace(0, len(sorted_values) - 1, _MAX_PAIRS).astype(int)]
