"""Linear probe: logistic regression on image features (Radford et al. 2021; settings of CoOp's few-shot probe).

    logits = W f + b        W, b = argmin  C * cross-entropy + |W|^2 / 2

by L-BFGS on the features as the tower gives them, of images that are not augmented.  C comes from a coarse grid and a
binary search around its best value, on validation images alone.  Several labels are one regression per class.

    # N images, K classes, E joint embedding
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from workers.clip.frozen import FrozenCLIP
from workers.methods.feature_config import LinearProbeConfig
from workers.methods.feature_method import FeatureMethod
from workers.methods.method import TaskFeatures, TaskInfo
from workers.methods.parameter_sets import ParameterSet, SetMethod

GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
NUM_STEPS = 8
"""Halvings of the range around the grid's best value."""
WITHOUT_VALIDATION = 1.0
MAX_ITERATIONS = 1000

Weights = tuple[np.ndarray, np.ndarray]
"""W [K, E] and b [K]."""
Labelled = tuple[np.ndarray, np.ndarray]
"""Images [N, E] and their labels [N], or [N, K]."""


class LinearProbe(FeatureMethod, SetMethod):
    """A classifier per task.  A set: `weight` [K, E] and `bias` [K], solved in `fit`."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: LinearProbeConfig, *, seed: int):
        super().__init__(clip, tasks, config, seed=seed)
        self._probe = config
        self._chosen: dict[str, float] = {}

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Zeros, until it is solved."""
        assert task is not None
        num_classes = len(task.class_names)
        return {"weight": torch.zeros(num_classes, self.clip.embed_dim), "bias": torch.zeros(num_classes)}

    def logits(self, task: str, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """W f + b; texts play no part."""
        part = self.task_specific(task)
        return image_features.float() @ part["weight"].T + part["bias"]

    @property
    def needs_fit(self) -> bool:
        """Always: this is where it is solved."""
        return True

    def fit(self, features: Callable[[str], TaskFeatures]) -> None:
        """Solves every task.  The bias that several labels have beside this stays zero: the probe has its own."""
        for task in self.tasks:
            images_VNE, labels = features(task).train()
            train = images_VNE[0].cpu().numpy(), labels.cpu().numpy()
            val_images, val_labels = features(task).val()
            val = val_images.cpu().numpy(), val_labels.cpu().numpy()
            self._chosen[task] = self._probe.c or _search(train, val)
            weight, bias = _solve(*train, self._chosen[task])
            part = self.task_specific(task)
            with torch.no_grad():
                part["weight"].copy_(torch.from_numpy(weight))
                part["bias"].copy_(torch.from_numpy(bias))

    def details(self, task: str) -> dict[str, float]:
        """The C it was solved with."""
        return {"c": self._chosen[task]} if task in self._chosen else {}


def _search(train: Labelled, val: Labelled) -> float:
    """The C with the best validation score; of equal ones the one tried first."""
    if len(val[1]) == 0 or (val[1].ndim == 2 and not val[1].any()):
        return WITHOUT_VALIDATION
    tried: dict[float, float] = {}

    def score(exponent: float) -> float:
        if exponent not in tried:
            weight, bias = _solve(*train, 10**exponent)
            tried[exponent] = _score(val[0] @ weight.T + bias, val[1])
        return tried[exponent]

    best = max((float(np.log10(c)) for c in GRID), key=score)
    left, right = best - 1, best + 1
    for _ in range(NUM_STEPS):
        middle = (left + right) / 2
        left, right = (middle, right) if score(left) < score(right) else (left, middle)
    return 10 ** max(tried, key=tried.__getitem__)


def _score(logits: np.ndarray, labels: np.ndarray) -> float:
    if labels.ndim == 1:
        return float((logits.argmax(axis=1) == labels).mean())
    found = np.flatnonzero(labels.sum(axis=0))
    return float(np.mean([average_precision_score(labels[:, k], logits[:, k]) for k in found])) if len(found) else 0.0


def _solve(images: np.ndarray, labels: np.ndarray, c: float) -> Weights:
    if labels.ndim == 1:
        return _regress(images, labels, c)
    parts = [_regress(images, labels[:, k], c) for k in range(labels.shape[1])]
    # each is over absent and present, and the difference of their logits is the logit of present
    return (
        np.stack([weight[-1] - weight[0] for weight, _ in parts]),
        np.array([_always(labels[:, k]) or bias[-1] - bias[0] for k, (_, bias) in enumerate(parts)]),
    )


def _always(labels: np.ndarray) -> float:
    """For a label that every image has, or none: the logit of its smoothed frequency.  Else 0."""
    if labels.min() < labels.max():
        return 0.0
    return float(np.log(len(labels) + 1)) * (1 if labels[0] else -1)


def _regress(images: np.ndarray, labels: np.ndarray, c: float) -> Weights:
    """Every class that occurs, in order: [K, E] and [K].  A single one has nothing to be told from.

    Solved on centred features, which is the same problem (the bias bears no penalty) in fewer iterations.
    """
    if len(np.unique(labels)) == 1:
        return np.zeros((1, images.shape[1])), np.zeros(1)
    centre = images.mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is the paper's
        model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS).fit(images - centre, labels)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias - weight @ centre
