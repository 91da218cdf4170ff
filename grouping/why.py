"""Where a task's agreement sits: the exact split of the similarity by layer and modality, and its course in training.

The dot product is a sum over parameters, so the similarity (before clipping) is the sum of its parts, with nothing left
over; it is also the mean of what it was at each snapshot.
"""

# S snapshots, T usable tasks, B blocks

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from grouping.measurement import Measurement
from grouping.similarity import MIN_RELIABILITY

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


def task_why(
    measurement: Measurement, reliability_T: np.ndarray | None, task: int, own: Sequence[int], other: Sequence[int]
) -> TaskWhy | None:
    """The parts of a task's mean similarity to its partners and to others, all given by index; None unmeasured."""
    numerators_STT = measurement.numerators_STT
    if numerators_STT is None or reliability_T is None or not (own or other):
        return None
    root_T = np.sqrt(np.maximum(reliability_T, MIN_RELIABILITY))

    def mean(values: np.ndarray, tasks: Sequence[int]) -> np.ndarray:
        members = list(tasks)
        return (values[:, task, members] / (root_T[task] * root_T[members])).mean(axis=1)

    blocks = []
    if measurement.blocks_BTT is not None:
        parts = [mean(measurement.blocks_BTT, tasks).tolist() if tasks else None for tasks in (own, other)]
        for index, name in enumerate(measurement.block_names):
            shares = [None if part is None else part[index] for part in parts]
            blocks.append(BlockShare(block=name, own=shares[0], other=shares[1]))
    return TaskWhy(blocks=blocks, trend=mean(numerators_STT, own or other).tolist())


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
