"""How firm a plan is: the same grouping from resampled snapshots and microbatches, many times.

Tasks that keep finding each other belong together (consensus clustering, Monti et al. 2003; PAC is Senbabaoglu's
proportion of ambiguous clustering, 2014).  A resample draws snapshots with replacement, and for each a split of the
microbatches into halves, within which it draws again: the same data never stands on both sides of a product.  It
discards data, so its verdict is conservative.  It takes as long as fifty plans, and is told later than the plan.
"""

# S snapshots, R microbatches, T usable tasks, N resamples

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import adjusted_rand_score

from grouping.config import GroupingConfig
from grouping.decision import pair_weights
from grouping.demands import fuse
from grouping.grams import block_grams, cosine, scales, sorted_mean
from grouping.links import Limits, limits_for
from grouping.local import local_partition
from grouping.measurement import Measurement
from grouping.paper import paper_partition
from grouping.partition import unit_sums
from grouping.similarity import Similarity, corrected
from grouping.spectral import spectral_labels, spectral_partition
from grouping.structure import find_structure

USABLE, FIRM = 0.2, 0.8
"""Bootstrap ARI from which a grouping is usable, and firm; measured on planted groups, where .27 came with an ARI of
.99 to the truth, and .04 with .11 to .35."""
AMBIGUOUS = (0.1, 0.9)


Word = Literal["refuse", "usable", "firm"]
RESAMPLED = ("cross_fit", "cosine")
"""Similarities that other data would change, as far as they are kept; TAG's losses are not."""
MIN_HALVES = 4
"""Fewest snapshots times pairs of microbatches; of fewer there are hardly any two different resamples."""


class TaskConfidence(BaseModel):
    """How surely a task is in its group."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    task: str
    together: float
    """Share of resamples in which it met a member of its group, mean over members; alone: in which it met nobody."""
    margin: float
    """`together` minus the same for the group it met most of the others; negative: it belongs there rather."""


class Confidence(BaseModel):
    """How firm the groups are. Matrices follow `task_names`, the tasks with a usable gradient."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    word: Word
    """`firm` if bootstrap ARI and agreement are at least 0.8, `usable` from 0.2."""
    sentence: str
    rand_index: float
    """Bootstrap ARI: mean adjusted Rand index between two resamples' groups."""
    agreement: float
    """Mean adjusted Rand index between the plan's groups and a resample's; a plan of one group agrees with nothing."""
    ambiguous: float
    """PAC: share of pairs that are together in more than 10 % and fewer than 90 % of the resamples."""
    task_names: list[str]
    together: list[list[float]]
    """Share of resamples in which two tasks share a group (co-association)."""
    low: list[list[float]]
    """2.5 % quantile of the similarity over resamples."""
    high: list[list[float]]
    """97.5 % quantile."""
    tasks: list[TaskConfidence]
    resamples: int


def confidence(
    gradients: np.ndarray,
    measurement: Measurement,
    config: GroupingConfig,
    groups: Sequence[Sequence[str]],
    *,
    costs: Mapping[str, float] | None = None,
    resamples: int = 50,
    noisy: bool = False,
) -> Confidence | None:
    """The confidence in these groups.  [snapshots, microbatches >= 2, tasks, params] in the order of the names given.

    None where there is nothing to resample: fewer than three usable tasks, too few microbatches, every task alone, or
    a similarity that rests on no gradients.  Groups of which the verdict says that they are too `noisy` are never firm.
    """
    names = list(measurement.usable)
    halves = measurement.num_snapshots * (measurement.num_microbatches // 2)
    apart = all(len(tasks) == 1 for tasks in groups)  # which the solver by itself never proposes
    if len(names) < 3 or halves < MIN_HALVES or config.similarity not in RESAMPLED or apart:
        return None
    at = {name: index for index, name in enumerate(measurement.task_names)}
    used = gradients[:, :, [at[name] for name in names]]
    grams = [parts[0] for parts in block_grams(used, scales(used))]
    rng = np.random.default_rng(config.seed)
    units = [unit for unit in fuse(config, sorted(measurement.task_names)) if any(name in names for name in unit)]
    limits = limits_for(config, units, costs)
    labels_NT, similarities = [], []
    for number in range(resamples):
        drawn = rng.integers(len(grams), size=len(grams))
        if config.similarity == "cosine":
            similarity_TT = sorted_mean([_resampled_cosine(grams[s], rng) for s in drawn])
            labels_T = _paper_grouped(similarity_TT, units, names, limits)
        else:
            numerator_TT = sorted_mean([_resampled(grams[s], rng) for s in drawn])
            similarity_TT = np.clip(corrected(numerator_TT), -1.0, 1.0)
            np.fill_diagonal(similarity_TT, 1.0)
            labels_T = _grouped(numerator_TT, similarity_TT, units, names, limits, config, number)
        similarities.append(similarity_TT)
        labels_NT.append(labels_T)
    together_TT = np.mean([labels[:, None] == labels[None, :] for labels in labels_NT], axis=0)
    rand = float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(labels_NT, 2)]))
    pairs = together_TT[np.triu_indices(len(names), k=1)]
    low, high = np.quantile(similarities, [0.025, 0.975], axis=0)
    unsplit = sum(not set(names).isdisjoint(tasks) for tasks in groups) == 1 and bool(together_TT.min() < 1)
    group_of = {task: number for number, tasks in enumerate(groups) for task in tasks}
    own_T = [group_of[name] for name in names]
    agreement = float(np.mean([adjusted_rand_score(own_T, labels_T) for labels_T in labels_NT]))
    least = rand if unsplit else min(rand, agreement)
    word: Word = "firm" if least >= FIRM and not noisy else "usable" if least >= USABLE else "refuse"
    return Confidence(
        word=word,
        sentence=_sentence(word, rand, agreement, unsplit=unsplit),
        rand_index=rand,
        agreement=agreement,
        ambiguous=float(((pairs > AMBIGUOUS[0]) & (pairs < AMBIGUOUS[1])).mean()),
        task_names=names,
        together=together_TT.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        tasks=_tasks(together_TT, names, groups),
        resamples=resamples,
    )


def _resampled(gram_RTRT: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A snapshot's numerator from resampled halves; the two stay disjoint.  -> [T, T]"""
    order = rng.permutation(gram_RTRT.shape[0])
    size = len(order) // 2
    a, b = rng.choice(order[:size], size), rng.choice(order[size:], len(order) - size)
    square_A = np.diagonal(gram_RTRT[a][:, :, a].mean(axis=(0, 2)))
    square_B = np.diagonal(gram_RTRT[b][:, :, b].mean(axis=(0, 2)))
    unit_T = 1 / np.maximum(np.sqrt(np.sqrt(square_A) * np.sqrt(square_B)), 1e-300)
    cross_TT = gram_RTRT[a][:, :, b].mean(axis=(0, 2))
    return 0.5 * (cross_TT + cross_TT.T) * np.outer(unit_T, unit_T)


def _resampled_cosine(gram_RTRT: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A snapshot's plain cosines of the means of resampled microbatches.  -> [T, T]"""
    drawn = rng.integers(gram_RTRT.shape[0], size=gram_RTRT.shape[0])
    return cosine(gram_RTRT[drawn][:, :, drawn])


def _paper_grouped(
    similarity_TT: np.ndarray, units: Sequence[Sequence[str]], names: Sequence[str], limits: Limits
) -> np.ndarray:
    """The paper's rule on resampled cosines.  -> [T]"""
    at = {name: index for index, name in enumerate(names)}
    members = [[at[name] for name in unit if name in at] for unit in units]
    found = paper_partition(similarity_TT, members, limits)
    labels_T = np.empty(len(names), dtype=int)
    for label, unit in zip(found.labels, members, strict=True):
        labels_T[unit] = label
    return labels_T


def _grouped(
    numerator_TT: np.ndarray,
    similarity_TT: np.ndarray,
    units: Sequence[Sequence[str]],
    names: Sequence[str],
    limits: Limits,
    config: GroupingConfig,
    seed: int,
) -> np.ndarray:
    """The plan's partitioner without its gate: what groups would these data give?  -> [T]"""
    if not limits.binding and len(units) == len(names) and config.solver == "spectral":
        if config.num_groups == "auto":
            return spectral_partition(numerator_TT, similarity_TT, seed=seed)
        labels = spectral_labels(numerator_TT, min(config.num_groups, len(names)), seed=seed)
        if labels is not None:
            return labels
    measured = Similarity(similarity_TT, None, numerator_TT, similarity_TT, similarity_TT, np.diagonal(numerator_TT))
    weights_TT = pair_weights(measured, find_structure(measured, found=True).threshold)
    at = {name: index for index, name in enumerate(names)}
    members = [[at[name] for name in unit if name in at] for unit in units]
    sums_UU = unit_sums(weights_TT, members)
    np.fill_diagonal(sums_UU, 0.0)
    found = local_partition(sums_UU, limits, seed=seed, restarts=2)
    labels_T = np.empty(len(names), dtype=int)
    for label, unit in zip(found.labels, members, strict=True):
        labels_T[unit] = label
    return labels_T


def _tasks(together_TT: np.ndarray, names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[TaskConfidence]:
    at = {name: index for index, name in enumerate(names)}
    indices = [[at[task] for task in tasks if task in at] for tasks in groups]
    said = []
    for task, name in enumerate(names):
        means = {}
        own: float | None = None
        for group, members in enumerate(indices):
            others = [index for index in members if index != task]
            if task in members:
                # Alone, it is the more at home the less it meets anybody.
                best = float(np.delete(together_TT[task], task).max())
                own = float(together_TT[task, others].mean()) if others else 1.0 - best
            elif members:
                means[group] = float(together_TT[task, others].mean())
        assert own is not None
        said.append(TaskConfidence(task=name, together=own, margin=own - max(means.values(), default=0.0)))
    return said


def _sentence(word: Word, rand: float, agreement: float, *, unsplit: bool) -> str:
    if not unsplit and agreement < min(rand, USABLE):
        return (
            "The groups are not those that the gradients give: other data of the same tasks would give others "
            f"(ARI {agreement:.2f} to these, {rand:.2f} among each other)."
        )
    words = {
        "firm": "The groups are firm: other data of the same tasks would give almost the same ones",
        "usable": "The groups are usable: the tasks' margins say which of them other data could move",
        "refuse": "The groups are not to be relied on: other data of the same tasks would give others",
    }
    if unsplit:
        kept = "although the plan keeps one group"
        words = {
            "firm": f"Other data of the same tasks would split them almost the same way each time, {kept}",
            "usable": f"Other data of the same tasks would split them in ways that resemble each other, {kept}",
            "refuse": "No split is to be relied on: other data would give others, so one group is safe",
        }
    return f"{words[word]} (bootstrap ARI {rand:.2f})."
