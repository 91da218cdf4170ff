"""Zero-shot CLIP: the template with the class name, nothing trained (Radford et al. 2021, section 3.1.4)."""

import torch

from workers.methods.feature_method import FeatureMethod


class ZeroShot(FeatureMethod):
    """No parameters and no edits; the yardstick beside every trained method."""

    def group_shared(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}
