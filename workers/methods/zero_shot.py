"""Zero-shot CLIP: the template with the class name, nothing trained (Radford et al. 2021, section 3.1.4)."""

import torch

from workers.clip.seam import NO_EDITS
from workers.methods.method import Method, TowerEdits


class ZeroShot(Method):
    """No parameters and no edits; the yardstick beside every trained method."""

    def group_shared(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def edits(self) -> TowerEdits:
        """Nothing plugged in; all tasks run under the same, empty copy."""
        return TowerEdits(image=NO_EDITS, text=NO_EDITS, copies=(0,) * len(self.tasks))

    @property
    def batch_key(self) -> tuple:
        """All zero-shot groups fit into one pass."""
        return ("zero_shot",)
