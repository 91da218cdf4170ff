"""Where a task's agreement sits, computed from the measurement: its parts by block, and its course over snapshots."""

# S snapshots, T usable tasks, B blocks

from collections.abc import Sequence

import numpy as np

from grouping.measurement import Measurement
from grouping.similarity import MIN_RELIABILITY
from grouping.why import BlockShare, TaskWhy


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
