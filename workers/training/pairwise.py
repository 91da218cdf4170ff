"""The pair-wise contrastive loss of CAVL (arXiv 2304.04399, section 4.2.1), as an addition to any task's loss.

    L = -log( sum over pairs that belong together of s  /  sum over pairs that do not of s )

with one logarithm over the whole batch, s the cosine of an image and a text.  As printed, either sum may be zero or
negative: `literal` clamps both; `exp` puts exp(s / temperature) in the place of s and is what we recommend.

    # B images of a batch, K texts
"""

import torch
from torch.nn import functional as F

from workers.training.config import PairwiseConfig

SMALLEST = 1e-6


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
