"""Where a task's agreement sits: the exact split of the similarity by layer and modality, and its course in training.

The dot product is a sum over parameters, so the similarity (before clipping) is the sum of its parts, with nothing left
over; it is also the mean of what it was at each snapshot.  `grouping.attribution` computes it; here it is told.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

_PLAIN = 0.05
"""A part below this share of the whole is not worth a word."""


class BlockShare(BaseModel):
    """One layer of one modality's prompts, and its part of a task's similarity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    block: str
    """`text.0`, `image.3`: modality and layer."""
    own: float | None
    """Part of the mean similarity to its group; negative where they conflict. Null alone."""
    other: float | None
    """The same for the best other group, or for the nearest task where there is none."""


class TaskWhy(BaseModel):
    """The parts of one task's agreement."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    blocks: list[BlockShare]
    """They add up to the mean similarity, before it is clipped to [-1, 1]. Empty where the blocks are unknown."""
    trend: list[float]
    """Mean similarity to its group at each snapshot, in the order of the snapshots (alone: to the nearest task)."""


def conflicting(parts: Mapping[str, float]) -> list[str]:
    """The blocks that pull against the agreement by more than a small share of it, the strongest first."""
    least = _PLAIN * abs(sum(parts.values()))
    return sorted((block for block, part in parts.items() if part < -least), key=parts.__getitem__)


def where_sentence(why: TaskWhy | None) -> str:
    """Which modality carries the agreement with the group, and which layers conflict; empty where unknown."""
    if why is None or not why.blocks or why.blocks[0].own is None:
        return ""
    whole = sum(share.own or 0.0 for share in why.blocks)
    if whole <= 0:
        return ""
    modality: dict[str, float] = {}
    for share in why.blocks:
        kind = share.block.split(".")[0]
        modality[kind] = modality.get(kind, 0.0) + (share.own or 0.0)
    said = " and ".join(f"{round(100 * part / whole)} % from the {kind} prompts" for kind, part in modality.items())
    against = conflicting({share.block: share.own or 0.0 for share in why.blocks})
    conflict = f", against {', '.join(against)}" if against else ""
    return f"Of the agreement with its group, {said}{conflict}."
