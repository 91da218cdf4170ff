"""Which partition is taken: the default solver's, another's where the user set limits, or none at all.

First the verdict: do the gradients show groups, can they?  Then, with `cross_fit`: signed spectral clustering proposes,
and the exact program (or local search) gives a second opinion; with sizes, costs or links, or as `solver: correlation`,
it is the other way round, because only the program can keep them.  Other affinities go by the paper's rule.
For `num_groups: auto` the proposal must beat one group and all alone on the same objective, and a proposal that joins
tasks whose gradients plainly oppose each other gives way to the program's.
"""

# T usable tasks, U units (tasks fused by must_link)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grouping.config import GroupingConfig
from grouping.exact import best_partition
from grouping.links import Limits, limits_for
from grouping.measurement import Measurement
from grouping.paper import mean_score, paper_partition
from grouping.partition import Partition, in_order, pair_sum, respects, unit_sums
from grouping.similarity import Similarity, cross_fitted
from grouping.spectral import spectral_labels, spectral_partition
from grouping.structure import Structure, find_structure, opposed_pairs, pair_reliability
from grouping.verdict import SURE_DETECTION, Verdict, detection_ratio, too_noisy, verdict

MAX_SECOND = 300
"""Most tasks for which a second solver is asked only for its opinion."""


@dataclass(frozen=True)
class Decision:
    """The partition taken, and what it was compared with."""

    labels_U: np.ndarray
    labels_T: np.ndarray
    solver: str
    gap: float | None
    threshold: float
    objective: dict[str, float]
    """Of `chosen`, `one_group` and `all_alone`, on the usable tasks."""
    verdict: Verdict | None
    """None where the gradients could not be compared with themselves."""
    second: Partition | None
    """Labels per task."""

    def groups(self, units: Sequence[Sequence[str]]) -> list[list[Sequence[str]]]:
        """The units of each group."""
        return [[units[int(u)] for u in np.flatnonzero(self.labels_U == g)] for g in np.unique(self.labels_U)]


@dataclass(frozen=True)
class Finding:
    """What the gradients say before any demand is heard."""

    structure: Structure
    noisy: bool
    """Groups could not be told from noise."""
    proposal_T: np.ndarray | None
    """Spectral clustering's groups, their number chosen by silhouette; None below three tasks."""

    def judged(self, labels: np.ndarray) -> np.ndarray:
        """The groups that the verdict is about: those that were too noisy, or else those that are proposed."""
        return self.proposal_T if self.noisy and self.proposal_T is not None else labels


def decide(
    measurement: Measurement,
    measured: Similarity,
    units: Sequence[Sequence[str]],
    config: GroupingConfig,
    costs: Mapping[str, float] | None = None,
    *,
    second_opinion: bool = True,
) -> Decision:
    """Partitions the usable tasks; `units` are tasks fused by must_link, and may hold unusable ones as well.

    Without `second_opinion` no solver runs whose answer is not needed; above `MAX_SECOND` tasks none is asked for.
    """
    at = {name: index for index, name in enumerate(measurement.usable)}
    members = [[at[name] for name in unit if name in at] for unit in units]
    limits = limits_for(config, units, costs)
    if config.similarity != "cross_fit":
        chosen = paper_partition(measured.similarity_TT, members, limits)
        labels_T = _per_task(chosen.labels, members)
        objective = {
            "chosen": mean_score(measured.similarity_TT, labels_T),
            "one_group": mean_score(measured.similarity_TT, np.zeros(len(at))),
            "all_alone": 0.0,
        }
        said = None
        if measurement.numerators_STT is not None:
            fitted = cross_fitted(measurement)
            finding = find(fitted, config.seed)
            proposed = _free(fitted, pair_weights(fitted, finding.structure.threshold), finding)
            said = verdict(measurement, fitted, finding.structure, finding.judged(proposed.labels), noisy=finding.noisy)
        return Decision(chosen.labels, labels_T, chosen.solver, chosen.gap, 0.0, objective, said, None)
    finding = find(measured, config.seed)
    weights_TT = pair_weights(measured, finding.structure.threshold)
    demands = limits.binding or any(len(unit) > 1 for unit in members)
    if demands:
        chosen, second = _limited(measured, weights_TT, finding, members, limits, config.seed)
    else:
        chosen, second = _unlimited(
            measured, weights_TT, finding, limits, config, ask=second_opinion and len(at) <= MAX_SECOND
        )
    labels_T = _per_task(chosen.labels, members)
    objective = {
        "chosen": pair_sum(weights_TT, labels_T),
        "one_group": pair_sum(weights_TT, np.zeros(len(at))),
        "all_alone": 0.0,
    }
    demands = demands or config.num_groups != "auto"
    proposed_T = _free(measured, weights_TT, finding).labels if demands else labels_T
    said = verdict(measurement, measured, finding.structure, finding.judged(proposed_T), noisy=finding.noisy)
    return Decision(
        chosen.labels, labels_T, chosen.solver, chosen.gap, finding.structure.threshold, objective, said, second
    )


def find(measured: Similarity, seed: int) -> Finding:
    """Structure by the gate, or by a contrast between the proposed groups that noise does not reach."""
    structure = find_structure(measured)
    opposed = bool(opposed_pairs(measured).any())
    if len(measured.numerator_TT) < 3:
        detection = detection_ratio(measured, np.zeros(len(measured.numerator_TT)))
        return Finding(structure, too_noisy(detection, structure, opposed=opposed), None)
    proposal_T = spectral_partition(measured.numerator_TT, measured.similarity_TT, seed=seed)
    detection = detection_ratio(measured, proposal_T)
    if not structure.found and detection is not None and detection >= SURE_DETECTION:
        structure = find_structure(measured, found=True)
    if not structure.found:
        detection = detection_ratio(measured, np.zeros(len(proposal_T)))
    return Finding(structure, too_noisy(detection, structure, opposed=opposed), proposal_T)


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


def _free(measured: Similarity, weights: np.ndarray, finding: Finding) -> Partition:
    """What the gradients propose for themselves: their groups, one group, or all alone, whatever is worth most."""
    if finding.noisy or not finding.structure.found or finding.proposal_T is None:
        return _without_structure(measured, weights, noisy=finding.noisy)
    proposal = _as_partition(finding.proposal_T, weights, "spectral")
    return _best_of([proposal, *_plain(weights)])


def _unlimited(
    measured: Similarity, weights: np.ndarray, finding: Finding, limits: Limits, config: GroupingConfig, *, ask: bool
) -> tuple[Partition, Partition | None]:
    """No sizes, no links: spectral first, the program as second opinion; or the other way round."""
    clear = finding.structure.found and not finding.noisy
    if limits.num_groups is None and (not clear or finding.proposal_T is None):
        return _without_structure(measured, weights, noisy=finding.noisy), None
    if limits.num_groups is None:
        # The threshold may be so low that one group of all is worth most in sum; still it serves no pair that opposes.
        limits, labels = replace(limits, apart_UU=opposed_pairs(measured)), finding.proposal_T
    else:
        labels = spectral_labels(measured.numerator_TT, limits.num_groups, seed=config.seed)
    spectral = None if labels is None else _as_partition(labels, weights, "spectral")
    kept = []
    if limits.num_groups is None and spectral is not None:
        kept = [candidate for candidate in (spectral, *_plain(weights)) if respects(candidate.labels, limits)]
    # k-means finds fewer groups than asked for where tasks have equal rows; then the program must.
    alone = spectral is None or (limits.num_groups is None and not any(each is spectral for each in kept[:1]))
    if not (ask or alone or config.solver == "correlation"):
        assert spectral is not None
        return _best_of(kept or [spectral]), None
    program = best_partition(weights, limits, seed=config.seed)
    if spectral is None or config.solver == "correlation":
        return program, spectral
    return _best_of([program, *kept] if alone else kept or [spectral]), program


def _limited(
    measured: Similarity,
    weights: np.ndarray,
    finding: Finding,
    members: Sequence[Sequence[int]],
    limits: Limits,
    seed: int,
) -> tuple[Partition, Partition | None]:
    """Sizes, costs or links: the program decides, spectral says what it would do without them."""
    sums_UU = unit_sums(weights, members)
    np.fill_diagonal(sums_UU, 0.0)
    if limits.num_groups is None and (finding.noisy or not finding.structure.found):
        wanted = _without_structure(measured, weights, noisy=finding.noisy)
        labels = in_order(np.array([wanted.labels[unit[0]] for unit in members]))
        if respects(labels, limits):
            return _as_partition(labels, sums_UU, wanted.solver), None
    chosen = best_partition(sums_UU, limits, seed=seed)
    count = len(np.unique(chosen.labels))
    if count > len(weights):
        return chosen, None
    labels = spectral_labels(measured.numerator_TT, count, seed=seed)
    return chosen, None if labels is None else _as_partition(labels, weights, "spectral")


def _without_structure(measured: Similarity, weights: np.ndarray, *, noisy: bool) -> Partition:
    """One group, unless the tasks oppose each other beyond doubt: then all alone."""
    pairs = np.triu_indices(len(weights), k=1)
    one, alone = _plain(weights)
    if noisy or len(pairs[0]) == 0:
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
