"""Do similarities foretell gains on this job?  Asked of the gains that short training runs showed.

Gradient similarity is a weak predictor of what training together really brings (rank correlations of 0 to 0.4 on public
tables), so it is measured anew on every job that can, and not believed where it foretells nothing.
"""

# R observations, each of one task in one composition; F features of an observation

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

MIN_CORRELATION = 0.3
MIN_TASKS = 4
ONE_SIDED = 1.645
"""Standard errors: what chance alone exceeds in one of twenty jobs."""


class PredictivePower(BaseModel):
    """How well similarity foretold the gains of training together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    spearman: float | None
    """Rank correlation of a task's mean similarity to its partners with its gain over training alone; null where it is
    not defined."""
    left_out: float | None
    """Rank correlation of the gains with what a ridge regression foretells for a task that it has not seen."""
    num_observations: int
    """A task in one tested group of at least two is one."""
    is_predictive: bool
    """`left_out` is above 0.3, and above what chance alone gives."""
    sentence: str


@dataclass(frozen=True)
class Predictor:
    """Foretells gains from similarities; only as good as its `power`."""

    power: PredictivePower
    _similarity: Mapping[str, Mapping[str, float]]
    _model: Pipeline | None

    def gain(self, task: str, partners: Collection[str]) -> float | None:
        """What the task would gain over training alone; None where similarities foretell nothing, or it has none."""
        features = _features(self._similarity, task, partners)
        if self._model is None or not self.power.is_predictive or features is None:
            return None
        return float(self._model.predict([features])[0])

    def similarity(self, task: str, partners: Collection[str]) -> float | None:
        """Mean similarity of the task to these others; None where none is known."""
        known = [self._similarity[task][other] for other in partners if other in self._similarity.get(task, {})]
        return float(np.mean(known)) if known else None


def fit(
    similarity: Mapping[str, Mapping[str, float]], observed: Sequence[tuple[str, Collection[str], float]]
) -> Predictor:
    """From observed gains (task, its partners, gain over training alone) and task -> task -> similarity."""
    rows = [
        (task, features, gain)
        for task, partners, gain in observed
        if (features := _features(similarity, task, partners)) is not None
    ]
    tasks = [task for task, _, _ in rows]
    if len(set(tasks)) < MIN_TASKS:
        return Predictor(_power(None, None, len(rows)), similarity, None)
    features_RF, gains_R = np.array([features for _, features, _ in rows]), np.array([gain for _, _, gain in rows])
    model = make_pipeline(StandardScaler(), Ridge())
    foretold_R = np.asarray(cross_val_predict(model, features_RF, gains_R, groups=tasks, cv=LeaveOneGroupOut()))
    plain, left_out = _spearman(features_RF[:, 0], gains_R), _spearman(foretold_R, gains_R)
    # The number of partners alone may foretell gains; then it is not the similarities that do.
    by_size_R = np.asarray(cross_val_predict(model, features_RF[:, -1:], gains_R, groups=tasks, cv=LeaveOneGroupOut()))
    by_size = _spearman(by_size_R, gains_R)
    adds = by_size is None or (left_out is not None and left_out > by_size)
    return Predictor(_power(plain, left_out, len(rows), adds=adds), similarity, model.fit(features_RF, gains_R))


def _features(
    similarity: Mapping[str, Mapping[str, float]], task: str, partners: Collection[str]
) -> list[float] | None:
    """Mean and least similarity to the partners, and how many there are."""
    known = [similarity[task][other] for other in partners if other in similarity.get(task, {})]
    return [float(np.mean(known)), min(known), float(np.log2(len(partners) + 1))] if known else None


def _spearman(first_R: np.ndarray, second_R: np.ndarray) -> float | None:
    if np.ptp(first_R) < 1e-12 or np.ptp(second_R) < 1e-12:
        return None
    return float(np.corrcoef(rankdata(first_R), rankdata(second_R))[0, 1])


def _power(spearman: float | None, left_out: float | None, num: int, *, adds: bool = True) -> PredictivePower:
    """`adds`: left-out gains are foretold better than by the number of partners alone."""
    foretold = left_out is not None and left_out > max(MIN_CORRELATION, ONE_SIDED / np.sqrt(num - 1))
    is_predictive = foretold and adds and spearman is not None and spearman > 0
    if spearman is None or left_out is None:
        sentence = (
            f"Whether the similarities foretell gains cannot be told here: {num} observation(s) of tasks trained "
            "together, or none differs from the others."
        )
    else:
        sentence = (
            f"The similarities were {'' if is_predictive else 'not '}predictive here: rank correlation {spearman:.2f} "
            f"between a task's similarity to its partners and what it gained over training alone, and {left_out:.2f} "
            f"for tasks that the prediction had not seen ({num} observations)."
        )
    return PredictivePower(
        spearman=spearman,
        left_out=left_out,
        num_observations=num,
        is_predictive=bool(is_predictive),
        sentence=sentence,
    )
