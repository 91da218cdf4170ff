"""How far the tasks' gradients agree, with standard errors.

Two tasks that are measured on the same images share their sampling noise, and a small noisy task looks unlike everyone.
So a similarity is cross-fitted: one half of a task's microbatches against the other half of another task's, never the
same data on both sides, divided by how well each task's halves agree with each other (its split-half reliability).

Averages over snapshots are taken over sorted values, so the order of the snapshots cannot change a single bit.
"""

# S snapshots, R microbatches, T tasks, P parameters of the generated prompts

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from grouping.grams import projected, sorted_mean
from grouping.measurement import Measurement, measure

MIN_RELIABILITY = 0.02
"""Reliabilities below this are not divided by: the quotient would be noise."""


@dataclass(frozen=True)
class Similarity:
    """What is said about every pair of tasks; all matrices are [tasks, tasks] and symmetric."""

    similarity_TT: np.ndarray
    """Reported similarity in [-1, 1], diagonal 1."""
    standard_error_TT: np.ndarray | None
    """Jackknife standard error of the similarity before clipping; None with too little data to leave some out."""
    numerator_TT: np.ndarray
    """Cross-fitted numerator with reliabilities on the diagonal (for other similarities: the similarity itself)."""
    cosine_TT: np.ndarray
    """Plain cosine of the microbatch means, averaged over snapshots."""
    projected_TT: np.ndarray
    """The same cosine after each snapshot's mean direction is taken out, for the test of structure."""
    reliability_T: np.ndarray | None
    """Agreement of a task with itself on other data; None with a single microbatch."""
    noise: float = 0.0
    """Standard deviation of an entry of the numerator, root mean square over pairs; 0 where it is not known."""
    quantile: float = 2.0
    """Standard errors from the estimate to the ends of a 95 % interval (Student's t over what was left out)."""


def cross_fit(gradients: np.ndarray) -> Similarity:
    """Cross-fitted similarity.  [snapshots, microbatches >= 2, tasks, params]; every gradient finite and non-zero."""
    return cross_fitted(measure(gradients, _numbered(gradients)))


def mean_cosine(gradients: np.ndarray) -> Similarity:
    """The paper's similarity: mean cosine over snapshots.  [snapshots, microbatches, tasks, params]"""
    return plain_cosine(measure(gradients, _numbered(gradients)))


def cross_fitted(measurement: Measurement) -> Similarity:
    """The numerators' mean over snapshots, divided by the root of the two tasks' reliabilities."""
    if measurement.numerators_STT is None:
        raise ValueError(
            "Cross-fitted similarity compares different microbatches, and the gradients hold 1 a snapshot. "
            "Use profile.microbatches of at least 2, or `similarity: cosine`."
        )
    numerator_TT = sorted_mean(measurement.numerators_STT)
    similarity_TT = np.clip(corrected(numerator_TT), -1.0, 1.0)
    np.fill_diagonal(similarity_TT, 1.0)
    return Similarity(
        similarity_TT=similarity_TT,
        standard_error_TT=jackknife(measurement.numerators_STT, measurement.fewer_numerators_SRTT, corrected),
        numerator_TT=numerator_TT,
        cosine_TT=sorted_mean(measurement.cosines_STT),
        projected_TT=sorted_mean([projected(cosine) for cosine in measurement.cosines_STT]),
        reliability_T=np.diagonal(numerator_TT).copy(),
        noise=_noise(measurement, numerator_TT),
        quantile=_quantile(measurement),
    )


def plain_cosine(measurement: Measurement) -> Similarity:
    """Mean cosine over snapshots, as in the MmAP paper."""
    cosine_TT = sorted_mean(measurement.cosines_STT)
    return Similarity(
        similarity_TT=cosine_TT,
        standard_error_TT=jackknife(measurement.cosines_STT, measurement.fewer_cosines_SRTT, np.asarray),
        numerator_TT=cosine_TT,
        cosine_TT=cosine_TT,
        projected_TT=sorted_mean([projected(cosine) for cosine in measurement.cosines_STT]),
        reliability_T=reliabilities(measurement),
        quantile=_quantile(measurement),
    )


def reliabilities(measurement: Measurement) -> np.ndarray | None:
    """Split-half reliability of every usable task; None with a single microbatch.  -> [T]"""
    if measurement.numerators_STT is None:
        return None
    return np.diagonal(sorted_mean(measurement.numerators_STT)).copy()


def corrected(numerator_TT: np.ndarray) -> np.ndarray:
    """The numerator over the root of both reliabilities (Spearman's correction for attenuation, 1904), not clipped."""
    root_T = np.sqrt(np.maximum(np.diagonal(numerator_TT), MIN_RELIABILITY))
    return numerator_TT / np.outer(root_T, root_T)


def jackknife(
    whole_STT: np.ndarray, fewer_SRTT: np.ndarray | None, finish: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray | None:
    """Standard error of `finish(mean over snapshots)`, [T, T] with a zero diagonal (Tukey's jackknife).

    With three snapshots or more, one snapshot is left out at a time: that sees the sampling noise and how much the
    similarity drifts in training. (Leaving out single microbatches sees no drift, and twice the noise variance with
    four microbatches, because products of noise with noise count more in what is left.) With fewer snapshots, one
    microbatch of one snapshot is left out at a time. None where neither can be done.
    """
    others = [np.delete(whole_STT, s, axis=0) for s in range(len(whole_STT))]
    if len(whole_STT) >= 3:
        left_out = [finish(sorted_mean(rest)) for rest in others]
    elif fewer_SRTT is not None:
        left_out = [
            finish(sorted_mean([*rest, fewer_TT]))
            for rest, fewer_RTT in zip(others, fewer_SRTT, strict=True)
            for fewer_TT in fewer_RTT
        ]
    else:
        left_out = [finish(sorted_mean(rest)) for rest in others if len(rest)]
    if len(left_out) < 2:
        return None
    values = np.sort(np.stack(left_out), axis=0)
    error_TT = np.sqrt((len(values) - 1) * values.var(axis=0))
    np.fill_diagonal(error_TT, 0.0)
    return error_TT


def _quantile(measurement: Measurement) -> float:
    """For the number of values that the jackknife leaves out."""
    left_out, fewer = measurement.num_snapshots, measurement.fewer_numerators_SRTT
    if left_out < 3 and fewer is not None:
        left_out = fewer.shape[0] * fewer.shape[1]
    return float(student_t.ppf(0.975, max(left_out - 1, 1)))


def _noise(measurement: Measurement, numerator_TT: np.ndarray) -> float:
    """Read from the jackknife, or where nothing can be left out from the noise's effective dimension."""
    assert measurement.numerators_STT is not None
    error_TT = jackknife(measurement.numerators_STT, measurement.fewer_numerators_SRTT, np.asarray)
    if error_TT is not None:
        return float(np.sqrt((error_TT[np.triu_indices(len(error_TT), k=1)] ** 2).mean())) if len(error_TT) > 1 else 0.0
    # Two products of halves are averaged, and what a half does not share with the other is noise.
    share = 1 - float(np.clip(np.diagonal(numerator_TT), 0, 1).mean()) ** 2
    return float(np.sqrt(share / (2 * measurement.effective_dimension * measurement.num_snapshots)))


def _numbered(gradients: np.ndarray) -> list[str]:
    """Names whose order is that of the tasks."""
    return [f"{task:09d}" for task in range(gradients.shape[2])]
