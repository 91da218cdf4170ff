"""CAVL's Adapter II (arXiv 2304.04399, section 4.2.2): Linear, GELU, Linear after attention and after the MLP.

The function is that of the bottleneck adapter; skip, zero start and width are this project's, as the paper states none.
"""

from collections.abc import Sequence

import torch

from workers.methods.adapter_config import Tower
from workers.methods.adapters import AdapterMethod, Bottlenecks, as_bottlenecks, linear_adapters
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet


class CAVLAdapter(AdapterMethod):
    """The adapters of one group.  A set, per tower: `down` [N, H, D], `down_bias`, `up` [N, D, H], `up_bias`."""

    def new_adapters(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """Adapters that change nothing yet."""
        return linear_adapters(self.sizes, rng)

    def bottlenecks(self, tower: Tower, sets: Sequence[ParameterSet]) -> Bottlenecks:
        """The one set, as it is."""
        (part,) = sets
        return as_bottlenecks(tower, part)
