"""Losses that pull pictures towards the captions that are true of them: CLIP's, and CAVL's pair-wise loss."""

import torch
import torch.nn.functional as F

PAIRWISE_TEMPERATURE = 0.07
LITERAL_FLOOR = 1e-6


def clip_loss(similarity_BC: torch.Tensor, matches_BC: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross-entropy where a picture may have several true captions, which share its target equally.

    similarity fp32 [B, C] cosines, matches bool [B, C] (a true caption in every row and column) -> scalar.
    With one match a row and column it is CLIP's own loss.
    """
    logits_BC = similarity_BC * logit_scale
    targets_BC = matches_BC.float()
    by_picture = -(F.log_softmax(logits_BC, dim=1) * targets_BC / targets_BC.sum(1, keepdim=True)).sum(1).mean()
    by_caption = -(F.log_softmax(logits_BC, dim=0) * targets_BC / targets_BC.sum(0, keepdim=True)).sum(0).mean()
    return (by_picture + by_caption) / 2


def pairwise_loss(similarity_BC: torch.Tensor, matches_BC: torch.Tensor) -> torch.Tensor:
    """CAVL's pair-wise contrastive loss (arXiv 2304.04399, section 4.2.1) in a stable form:

    -log( sum over matches of exp(s / 0.07)  /  sum over all other pairs of exp(s / 0.07) ), one logarithm a batch.
    similarity fp32 [B, C] cosines, matches bool [B, C] -> scalar.  Needs a match and a non-match.
    """
    scaled = similarity_BC / PAIRWISE_TEMPERATURE
    return torch.logsumexp(scaled[~matches_BC], 0) - torch.logsumexp(scaled[matches_BC], 0)


def pairwise_loss_literal(similarity_BC: torch.Tensor, matches_BC: torch.Tensor) -> torch.Tensor:
    """The same loss as printed: sums of bare cosines, no exponential, no temperature.

    Either sum may be negative, so both are held at 1e-6 or above; a sum that is held there gives no gradient.
    """
    positive = similarity_BC[matches_BC].sum().clamp_min(LITERAL_FLOOR)
    negative = similarity_BC[~matches_BC].sum().clamp_min(LITERAL_FLOOR)
    return negative.log() - positive.log()
