"""What a task's kind changes: its loss and its score.  Everything else in this room treats all kinds alike.

- classification: cross-entropy over the classes; top-1 accuracy.
- multi_label: binary cross-entropy per class, mean over classes; mean average precision over classes with a positive.
- retrieval: every image of a batch against every caption of the batch, both ways (InfoNCE); recall at 1, 5 and 10.

    # B images of a batch, N images of a set, K classes, M captions of a set
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from workers.data.config import TaskKind

RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Measured:
    """How a set's logits compare with the truth."""

    metrics: dict[str, float]
    per_image: np.ndarray
    """One figure per image, fp64 [N]: see `TaskResult.per_image`."""


def image_losses(kind: TaskKind, logits_BK: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Every image's loss in nats, [B].  labels: classes [B] or, for multi_label, 0 and 1 [B, K].

    For retrieval `logits_BK` is [B, B], image i's own caption stands in column i, and pairs with equal labels [B]
    belong together: an image is not pushed away from another caption of its own, nor from one that reads the same.
    """
    match kind:
        case "classification":
            return F.cross_entropy(logits_BK, labels, reduction="none")
        case "multi_label":
            losses_BK = F.binary_cross_entropy_with_logits(logits_BK, labels.float(), reduction="none")
            return losses_BK.mean(dim=1)
        case "retrieval":
            same = labels[:, None] == labels[None, :]
            other = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
            logits_BB = logits_BK.masked_fill(other, float("-inf"))
            own = torch.arange(len(labels), device=labels.device)
            to_text = F.cross_entropy(logits_BB, own, reduction="none")
            return (to_text + F.cross_entropy(logits_BB.T, own, reduction="none")) / 2


def measure(kind: TaskKind, logits: np.ndarray, labels: np.ndarray) -> Measured:
    """The metrics of a whole set.  logits [N, K]; labels [N], or [N, K] for multi_label.

    For retrieval logits are [N, M] and labels [N, M] say which captions describe which image: its own, and those that
    read like one of its own.
    """
    match kind:
        case "classification":
            correct = (logits.argmax(axis=1) == labels).astype(float)
            return Measured({"accuracy": float(correct.mean())}, correct)
        case "multi_label":
            return _measure_labels(logits, labels)
        case "retrieval":
            return _measure_retrieval(logits, labels)


def _measure_labels(logits: np.ndarray, labels: np.ndarray) -> Measured:
    found = labels.sum(axis=0) > 0
    precisions = [average_precision_score(labels[:, k], logits[:, k]) for k in np.flatnonzero(found)]
    has_label = labels.sum(axis=1) > 0
    per_image = np.zeros(len(labels))
    for row in np.flatnonzero(has_label):
        per_image[row] = average_precision_score(labels[row], logits[row])
    return Measured(
        {
            "mean_average_precision": float(np.mean(precisions)) if precisions else 0.0,
            "image_average_precision": float(per_image[has_label].mean()) if has_label.any() else 0.0,
        },
        per_image,
    )


def _measure_retrieval(logits_NM: np.ndarray, own_NM: np.ndarray) -> Measured:
    """Recall at r: the share of queries with a right answer among the r best.  A tie counts against the answer."""
    right_NM, wrong_NM = np.where(own_NM, logits_NM, -np.inf), np.where(own_NM, -np.inf, logits_NM)
    rank_N = (wrong_NM >= right_NM.max(axis=1, keepdims=True)).sum(axis=1)
    rank_M = (wrong_NM >= right_NM.max(axis=0, keepdims=True)).sum(axis=0)
    metrics = {f"image_to_text_recall@{r}": float((rank_N < r).mean()) for r in RECALLS}
    metrics |= {f"text_to_image_recall@{r}": float((rank_M < r).mean()) for r in RECALLS}
    metrics["recall@1"] = (metrics["image_to_text_recall@1"] + metrics["text_to_image_recall@1"]) / 2
    found_N = np.array([(rank_M[own] < 1).mean() for own in own_NM])
    return Measured(metrics, ((rank_N < 1) + found_N) / 2)
