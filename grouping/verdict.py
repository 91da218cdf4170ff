"""What the gradients can tell before anybody is grouped: groups, one group, all alone, or nothing yet.

Groups of a planted model are seen when R = gap sqrt(d S) m / (2 sqrt N) is large enough: gap the difference of mean
cosine inside and outside, d the effective dimension of the noise, S snapshots, m tasks a group, N tasks. That is the
eigenvalue of a contrast between groups, over the edge of the noise's eigenvalues. So it is read from the eigenvalues of
the cross-fitted numerator, each freed of what noise adds to it (Baik, Ben Arous and Peche 2005: a contrast below half
the edge leaves no trace at all, which is R = 0.5).

Groups that are seen are not yet tasks that can be placed. A task's own noise meets all tasks of a group at once, and
does not average out however many they are: with three large groups and three snapshots R was 1.17, and even the true
groups of all others placed a task so that the ARI was 0.89. So a task's margin is measured too, over what it takes, and
R is the smaller ratio: of 490 planted jobs at 49 designs, 243 had R >= 1 and 4 of them an ARI below 0.9 (266 and 17
without the margin); from 0.8 to 1 the mean ARI was 0.95, from 0.6 to 0.8 it was 0.64, and below 0.5 it was 0.16.
"""

# T usable tasks, G groups

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm

from grouping.measurement import Measurement
from grouping.outline import VerdictKind
from grouping.similarity import MIN_RELIABILITY, Similarity
from grouping.spectral import leading, to_groups
from grouping.structure import Structure

MIN_DETECTION = 0.6
"""Below this ratio groups are hardly better than a guess (planted ARI 0.39 and less); from 1 on it is 0.9 and more."""
SURE_DETECTION = 1.0
MISPLACED = 0.03
"""Share of the tasks that may stand in a wrong group where R = 1: an ARI of about 0.9."""
FAINTEST = 0.1
"""What is needed for sure groups is not foretold from a ratio below this one."""
VISIBLE_GAP = 0.5
"""Where no groups were found, a difference of similarity this large must have been visible to deny that there are."""


class Verdict(BaseModel):
    """What can be said of these gradients, and how surely."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    kind: VerdictKind
    """`groups`: they fall into groups; `one_group`: no groups stand out; `all_alone`: they oppose each other;
    `too_noisy`: cannot be told, so all train together until more is measured."""
    sentence: str
    detection: float | None
    """R: the groups' contrast over the edge of the noise, or a task's margin over what it takes to place it, whichever
    is less; 1 and more is sure, below 0.6 is a guess. Without groups, the R that a difference of similarity of 0.5
    would have had."""
    smallest_gap: float | None
    """The difference of similarity, inside against outside a group of sqrt(tasks) tasks, that has R = 1 here."""
    effective_dimension: float | None
    """Independent directions of the gradient noise."""
    mean_reliability: float | None
    """Mean agreement of a task with itself on other data."""
    measured: int
    """Snapshots x microbatches there are."""
    needed: int | None
    """Snapshots x microbatches needed in all where there are too few; null where there are enough."""


def too_noisy(detection: float | None, structure: Structure, *, opposed: bool) -> bool:
    """Whether groups cannot be told from noise. Tasks that plainly oppose each other are never too noisy for that."""
    if opposed or detection is None:
        return False
    return detection < (MIN_DETECTION if structure.found else SURE_DETECTION)


def verdict(
    measurement: Measurement, measured: Similarity, structure: Structure, labels: np.ndarray, *, noisy: bool
) -> Verdict:
    """Puts the finding in words; `labels` is the partition that the gradients propose.  [tasks]"""
    have = measurement.num_snapshots * measurement.num_microbatches
    num_groups, num_tasks = len(np.unique(labels)), len(labels)
    kind: VerdictKind = "one_group" if num_groups == 1 else "all_alone" if num_groups == num_tasks else "groups"
    detection = detection_ratio(measured, labels if structure.found else np.zeros(num_tasks))
    kind = "too_noisy" if noisy else kind
    # 1.2 / R squared times the data bring R to 1.2 (the reference's rule, which credits microbatches like snapshots).
    needed = None
    if detection is not None and (kind == "too_noisy" or (kind == "groups" and detection < SURE_DETECTION)):
        needed = int(np.ceil(have * (1.2 / np.clip(detection, FAINTEST, SURE_DETECTION)) ** 2))
    return Verdict(
        kind=kind,
        sentence=_sentence(kind, num_groups, detection, needed, have, structure),
        detection=detection,
        smallest_gap=_smallest_gap(measured),
        effective_dimension=measurement.effective_dimension,
        mean_reliability=None if measured.reliability_T is None else float(measured.reliability_T.mean()),
        measured=have,
        needed=needed,
    )


def detection_ratio(measured: Similarity, labels: np.ndarray) -> float | None:
    """R of these groups; without groups, of a gap of `VISIBLE_GAP`. None if unmeasurable.  [tasks]"""
    labels = np.unique(labels, return_inverse=True)[1]
    if 0 < labels.max(initial=0) < len(labels) - 1:
        return float(min(_contrast(measured, labels.max() + 1), _placement(measured.numerator_TT, labels), 1e6))
    smallest = _smallest_gap(measured)
    return None if smallest is None else float(min(VISIBLE_GAP / max(smallest, 1e-6), 1e6))


def _contrast(measured: Similarity, num_groups: int) -> float:
    """Contrasts between so many groups over the edge of the noise, their mean."""
    num_tasks = len(measured.numerator_TT)
    # What all share is no contrast. Tasks show it as much as they are reliable, so not the mean row is taken out; and
    # on the diagonal stands what all share alone, since a task's agreement with itself joins it to nobody.
    root_T = np.sqrt(np.maximum(np.diagonal(measured.numerator_TT), MIN_RELIABILITY))
    rest_TT = measured.numerator_TT - np.diag(np.diagonal(measured.numerator_TT))
    square = root_T @ root_T
    common = (root_T @ rest_TT @ root_T) / max(square**2 - (root_T**4).sum(), 1e-12)
    rest_TT += common * np.diag(root_T**2)
    along_T = root_T / np.sqrt(square)
    row_T = rest_TT @ along_T
    rest_TT -= np.outer(along_T, row_T) + np.outer(row_T - (along_T @ row_T) * along_T, along_T)
    contrasts_G = leading(rest_TT, num_groups - 1)[0]
    edge = max(2 * np.sqrt(num_tasks) * measured.noise, 1e-9)
    above_G = contrasts_G / edge
    freed_G = np.where(above_G > 1, (above_G + np.sqrt(np.maximum(above_G**2 - 1, 0))) / 2, above_G / 2)
    return float(np.maximum(freed_G, 0).mean())


def _placement(numerator_TT: np.ndarray, labels: np.ndarray) -> float:
    """Margin of a task to the other groups in deviations, over the deviations that misplace `MISPLACED` of the tasks.

    How much the margin deviates is told by tasks of one group: theirs to another group is the same but for noise. Tasks
    alone in a group have no margin; where no group has two tasks nothing can be misplaced.
    """
    margin_TG = -to_groups(numerator_TT, labels)
    margin_TG -= margin_TG[np.arange(len(labels)), labels][:, None]
    margin_TG /= np.sqrt(np.maximum(np.diagonal(numerator_TT), MIN_RELIABILITY))[:, None]
    margins, squares, freedom = [], 0.0, 0
    for group in range(labels.max() + 1):
        to_others = np.delete(margin_TG[labels == group], group, axis=1)
        if len(to_others) > 1:
            margins.append(to_others.ravel())
            squares += float(((to_others - to_others.mean(axis=0)) ** 2).sum())
            freedom += (len(to_others) - 1) * to_others.shape[1]
    if not margins:
        return np.inf
    deviations = np.concatenate(margins).mean() / max(np.sqrt(squares / freedom), 1e-9)
    return float(max(deviations, 0.0) / norm.isf(MISPLACED / labels.max()))


def _smallest_gap(measured: Similarity) -> float | None:
    num_tasks = len(measured.numerator_TT)
    if measured.reliability_T is None or num_tasks < 2:
        return None
    reliability = max(float(measured.reliability_T.mean()), 1e-6)
    size = max(2.0, float(np.sqrt(num_tasks)))
    return float(min(2 * np.sqrt(num_tasks) * measured.noise / (size * reliability), 1e6))


def _sentence(
    kind: VerdictKind, num_groups: int, detection: float | None, needed: int | None, have: int, structure: Structure
) -> str:
    least = detection is not None and detection <= FAINTEST
    more = (
        f"{'more than' if least else 'about'} {needed} snapshots x microbatches would be needed, and there are {have}"
    )
    ratio = "" if detection is None else f" (R = {min(detection, 99):.1f})"
    if kind == "too_noisy":
        return f"The gradients are too noisy to tell groups apart{ratio}: {more}."
    if kind == "groups":
        sure = "clearly" if needed is None else "only just"
        tail = "." if needed is None else f"; {more}."
        return f"The tasks fall into {num_groups} groups that {sure} stand out from the noise{ratio}{tail}"
    if kind == "all_alone":
        return "The tasks do not go together: no two of them are better off in one group."
    if structure.found:
        return "The tasks differ, and still one group of all is worth more than any split."
    return f"No groups stand out, and groups that differ plainly would have been seen{ratio}."
