"""Which partition is taken: the default solver's, another's where the user set limits, or none at all.

With `cross_fit`: signed spectral clustering proposes, and the exact program (or local search) gives a second opinion;
with sizes or links it is the other way round, because only the program can keep them. With `cosine`: the paper's rule.
For `num_groups: auto` the proposal must beat one group and all alone on the same objective, and a proposal that joins
tasks whose gradients plainly oppose each other gives way to the program's.
"""

# T usable tasks, U units (tasks fused by must_link)

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from grouping.config import GroupingConfig
from grouping.exact import best_partition
from grouping.links import Limits, limits_for
from grouping.paper import mean_score, paper_partition
from grouping.partition import Partition, in_order, pair_sum, respects
from grouping.similarity import Similarity
from grouping.spectral import spectral_labels, spectral_partition
from grouping.structure import Structure, find_structure, opposed_pairs, pair_reliability


@dataclass(frozen=True)
class Decision:
    """The partition taken, and what it was compared with."""

    labels_U: np.ndarray
    labels_T: np.ndarray
    solver: str
    threshold: float
    objective: dict[str, float]
    """Of `chosen`, `one_group` and `all_alone`, on the usable tasks."""
    structure: Structure | None
    """None where the number of groups was fixed or the paper's rule decided."""
    second: Partition | None
    """Labels per task."""

    def groups(self, units: Sequence[Sequence[str]]) -> list[list[Sequence[str]]]:
        """The units of each group."""
        return [[units[int(u)] for u in np.flatnonzero(self.labels_U == g)] for g in np.unique(self.labels_U)]


def decide(
    measured: Similarity, usable: Sequence[str], units: Sequence[Sequence[str]], config: GroupingConfig
) -> Decision:
    """Partitions the usable tasks; `units` are tasks fused by must_link, and may hold unusable ones as well."""
    at = {name: index for index, name in enumerate(usable)}
    members = [[at[name] for name in unit if name in at] for unit in units]
    limits = limits_for(config, units)
    if config.similarity == "cosine":
        chosen = paper_partition(measured.similarity_TT, members, limits)
        labels_T = _per_task(chosen.labels, members)
        objective = {
            "chosen": mean_score(measured.similarity_TT, labels_T),
            "one_group": mean_score(measured.similarity_TT, np.zeros(len(usable))),
            "all_alone": 0.0,
        }
        return Decision(chosen.labels, labels_T, chosen.solver, 0.0, objective, None, None)
    structure = find_structure(measured)
    weights_TT = pair_weights(measured, structure.threshold)
    free = not limits.binding and not any(len(unit) > 1 for unit in members)
    if free:
        chosen, second = _free(measured, weights_TT, structure, limits, config.seed)
    else:
        chosen, second = _limited(measured, weights_TT, structure, members, limits, config.seed)
    labels_T = _per_task(chosen.labels, members)
    objective = {
        "chosen": pair_sum(weights_TT, labels_T),
        "one_group": pair_sum(weights_TT, np.zeros(len(usable))),
        "all_alone": 0.0,
    }
    auto = structure if config.num_groups == "auto" else None
    return Decision(chosen.labels, labels_T, chosen.solver, structure.threshold, objective, auto, second)


def pair_weights(measured: Similarity, threshold: float) -> np.ndarray:
    """What a pair adds to the objective when it shares a group.  -> [tasks, tasks], diagonal 0

    Its similarity above the threshold, times its reliability, which is the cross-fitted numerator again: the plain
    difference lets the noise of unreliable pairs decide. Measured on 60 tasks in 6 groups, half of them with five times
    the noise and a common direction: the true groups were worth -37 against 0 for all alone, and the best partition
    had an ARI of 0.04 to the truth; so weighted, they are worth 6.8 and it has 0.80.
    """
    weights_TT = measured.numerator_TT - threshold * pair_reliability(measured)
    np.fill_diagonal(weights_TT, 0.0)
    return weights_TT


def _free(
    measured: Similarity, weights: np.ndarray, structure: Structure, limits: Limits, seed: int
) -> tuple[Partition, Partition | None]:
    """No sizes, no links: spectral first, the program as second opinion."""
    if limits.num_groups is None and not structure.found:
        return _without_structure(measured, weights), None
    if limits.num_groups is not None:
        second = best_partition(weights, limits, seed=seed)
        labels = spectral_labels(measured.numerator_TT, limits.num_groups, seed=seed)
        if labels is None:  # tasks with equal rows leave k-means fewer groups than asked for
            return second, None
        return _as_partition(labels, weights, "spectral"), second
    # The threshold may be so low that one group of all is worth most in sum; still it serves no pair that opposes.
    apart = replace(limits, apart_UU=opposed_pairs(measured))
    second = best_partition(weights, apart, seed=seed)
    labels = spectral_partition(measured.numerator_TT, measured.similarity_TT, seed=seed)
    candidates = [_as_partition(labels, weights, "spectral"), *_plain(weights)]
    kept = [candidate for candidate in candidates if respects(candidate.labels, apart)]
    return _best_of(kept if kept[0] is candidates[0] else [second, *kept]), second


def _limited(
    measured: Similarity,
    weights: np.ndarray,
    structure: Structure,
    members: Sequence[Sequence[int]],
    limits: Limits,
    seed: int,
) -> tuple[Partition, Partition | None]:
    """Sizes or links: the program decides, spectral says what it would do without them."""
    sums_UU = np.array([[weights[np.ix_(a, b)].sum() for b in members] for a in members])
    np.fill_diagonal(sums_UU, 0.0)
    if limits.num_groups is None and not structure.found:
        wanted = _without_structure(measured, weights)
        labels = in_order(np.array([wanted.labels[unit[0]] for unit in members]))
        if respects(labels, limits):
            return _as_partition(labels, sums_UU, wanted.solver), None
    chosen = best_partition(sums_UU, limits, seed=seed)
    count = len(np.unique(chosen.labels))
    if count > len(weights):
        return chosen, None
    labels = spectral_labels(measured.numerator_TT, count, seed=seed)
    return chosen, None if labels is None else _as_partition(labels, weights, "spectral")


def _without_structure(measured: Similarity, weights: np.ndarray) -> Partition:
    """One group, unless the tasks oppose each other beyond doubt: then all alone."""
    pairs = np.triu_indices(len(weights), k=1)
    one, alone = _plain(weights)
    if len(pairs[0]) == 0:
        return one
    mean = float(measured.similarity_TT[pairs].mean())
    error = 0.0
    if measured.standard_error_TT is not None:
        # Pairs that share a task err together, so their mean is not credited with more than one pair a task.
        error = float(np.sqrt((measured.standard_error_TT[pairs] ** 2).mean() / (len(weights) / 2)))
    return alone if mean + 2 * error < 0 else one


def _plain(weights: np.ndarray) -> list[Partition]:
    labels = np.zeros(len(weights), dtype=int)
    everyone = np.arange(len(weights))
    return [_as_partition(labels, weights, "one group"), _as_partition(everyone, weights, "all alone")]


def _best_of(partitions: list[Partition]) -> Partition:
    """The largest objective; the first of equals."""
    return max(partitions, key=lambda partition: round(partition.objective, 9))


def _as_partition(labels: np.ndarray, weights: np.ndarray, solver: str) -> Partition:
    return Partition(in_order(labels), pair_sum(weights, labels), solver)


def _per_task(labels_U: np.ndarray, members: Sequence[Sequence[int]]) -> np.ndarray:
    labels_T = np.empty(sum(len(unit) for unit in members), dtype=int)
    for label, unit in zip(labels_U, members, strict=True):
        labels_T[list(unit)] = label
    return labels_T
