"""What the gradients can tell before anybody is grouped: groups, one group, all alone, or nothing yet.

Groups of a planted model are found when R = gap sqrt(d S) m / (2 sqrt N) is large enough: gap the difference of mean
cosine inside and outside, d the effective dimension of the noise, S snapshots, m tasks a group, N tasks. That is the
eigenvalue of a contrast between groups, over the edge of the noise's eigenvalues. So R is read from the eigenvalues of
the cross-fitted numerator, each freed of what noise adds to it (Baik, Ben Arous and Peche 2005: a contrast below half
the edge leaves no trace at all, which is R = 0.5).
"""

# T usable tasks, G groups

import numpy as np
from pydantic import BaseModel, ConfigDict

from grouping.measurement import Measurement
from grouping.outline import VerdictKind
from grouping.similarity import MIN_RELIABILITY, Similarity
from grouping.structure import Structure

MIN_DETECTION = 0.6
"""Below this ratio groups are no better than a guess (planted ARI 0.33 and less); from 1 on it is 0.9 and more."""
SURE_DETECTION = 1.0
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
    """R: the groups' contrast over the edge of the noise; 1 and more is sure, below 0.6 is a guess. Without groups, the
    R that a difference of similarity of 0.5 would have had."""
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
    detection = detection_ratio(measured, num_groups if structure.found else 1)
    kind = "too_noisy" if noisy else kind
    # 1.2 / R squared times the data bring R to 1.2 (the reference's rule, which credits microbatches like snapshots).
    short = detection is not None and detection < SURE_DETECTION and kind in ("too_noisy", "groups")
    needed = int(np.ceil(have * (1.2 / max(detection, 0.05)) ** 2)) if short and detection is not None else None
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


def detection_ratio(measured: Similarity, num_groups: int) -> float | None:
    """R of the contrasts between so many groups; without groups, of a gap of `VISIBLE_GAP`. None if unmeasurable."""
    if 1 < num_groups < len(measured.numerator_TT):
        return _detection(measured, num_groups)
    smallest = _smallest_gap(measured)
    return None if smallest is None else float(min(VISIBLE_GAP / max(smallest, 1e-6), 1e6))


def _detection(measured: Similarity, num_groups: int) -> float:
    """R of the contrasts between the groups, their mean."""
    num_tasks = len(measured.numerator_TT)
    # What all share is no contrast. Tasks show it as much as they are reliable, so not the mean row is taken out; and
    # on the diagonal stands what all share alone, since a task's agreement with itself joins it to nobody.
    root_T = np.sqrt(np.maximum(np.diagonal(measured.numerator_TT), MIN_RELIABILITY))
    rest_TT = measured.numerator_TT - np.diag(np.diagonal(measured.numerator_TT))
    square = root_T @ root_T
    common = (root_T @ rest_TT @ root_T) / max(square**2 - (root_T**4).sum(), 1e-12)
    keep_TT = np.eye(num_tasks) - np.outer(root_T, root_T) / square
    rest_TT = keep_TT @ (rest_TT + common * np.diag(root_T**2)) @ keep_TT
    contrasts_G = np.linalg.eigvalsh(rest_TT)[::-1][: num_groups - 1]
    edge = max(2 * np.sqrt(num_tasks) * measured.noise, 1e-9)
    above_G = contrasts_G / edge
    freed_G = np.where(above_G > 1, (above_G + np.sqrt(np.maximum(above_G**2 - 1, 0))) / 2, above_G / 2)
    return float(min(np.maximum(freed_G, 0).mean(), 1e6))


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
    more = f"about {needed} snapshots x microbatches would be enough, and there are {have}"
    ratio = "" if detection is None else f" (R = {min(detection, 99):.1f})"
    if kind == "too_noisy":
        return f"The gradients are too noisy to tell groups apart{ratio}: {more}. Until then all train together."
    if kind == "groups":
        sure = "clearly" if needed is None else "only just"
        tail = "." if needed is None else f"; {more}."
        return f"The tasks fall into {num_groups} groups that {sure} stand out from the noise{ratio}{tail}"
    if kind == "all_alone":
        return "The tasks do not go together: no two of them are better off in one group."
    if structure.found:
        return "The tasks differ, and still one group of all is worth more than any split."
    return f"No groups stand out, and groups that differ plainly would have been seen{ratio}: all train together."
