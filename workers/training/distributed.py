"""Several processes, one global batch: sums what has to be summed, in one message per step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train one group.  `torch.distributed` is initialised by whoever starts
    them."""

    rank: int = 0
    world_size: int = 1

    @property
    def writes(self) -> bool:
        """Only the first rank evaluates, reports and writes."""
        return self.rank == 0

    def sum_in_place(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces every tensor by its sum over the ranks.  fp32 tensors on one device."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any rank raised its flag: all ranks learn the same answer."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(flags)
        return bool(flags > 0)
