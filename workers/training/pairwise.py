"""The pair-wise contrastive loss of CAVL (arXiv 2304.04399, section 4.2.1), as an addition to any task's loss.

    L = -log( sum over pairs that belong together of s  /  sum over pairs that do not of s )

with one logarithm over the whole batch, s the cosine of an image and a text.  As printed, either sum may be zero or
negative: `literal` clamps both, and a clamped sum has no gradient; `exp` puts exp(s / temperature) in the place of s
and is what we recommend.

    # B images of a batch, K texts, E joint embedding
"""

import torch
from torch.nn import functional as F

from workers.data.config import TaskKind
from workers.training.config import PairwiseConfig

SMALLEST = 1e-6


def batch_pairwise_loss(
    kind: TaskKind, image_BE: torch.Tensor, text_KE: torch.Tensor, labels: torch.Tensor, config: PairwiseConfig
) -> torch.Tensor:
    """The loss of one task's batch, a scalar.  `labels` as `image_losses` takes them.

    A classification batch pairs every image with the sentence of its class, and all pairs of equal classes belong
    together; with several labels, an image belongs to the sentence of each; in retrieval, to the captions that read
    like its own.
    """
    match kind:
        case "classification":
            return pairwise_loss(image_BE, text_KE[labels], labels[:, None] == labels[None, :], config)
        case "multi_label":
            return pairwise_loss(image_BE, text_KE, labels.bool(), config)
        case "retrieval":
            return pairwise_loss(image_BE, text_KE, labels[:, None] == labels[None, :], config)


def pairwise_loss(
    image_BE: torch.Tensor, text_KE: torch.Tensor, matches_BK: torch.Tensor, config: PairwiseConfig
) -> torch.Tensor:
    """The loss of a batch, a scalar.  `matches_BK` (bool) says which text describes which image.

    Zero if the batch has no pair of the one kind or the other: there is nothing to tell apart.
    """
    cosine_BK = F.normalize(image_BE.float(), dim=-1) @ F.normalize(text_KE.float(), dim=-1).T
    if bool(matches_BK.all()) or not bool(matches_BK.any()):
        return cosine_BK.sum() * 0
    if config.form == "literal":
        together = cosine_BK[matches_BK].sum().clamp(min=SMALLEST)
        apart = cosine_BK[~matches_BK].sum().clamp(min=SMALLEST)
        return apart.log() - together.log()
    scaled_BK = cosine_BK / config.temperature
    return scaled_BK[~matches_BK].logsumexp(0) - scaled_BK[matches_BK].logsumexp(0)
