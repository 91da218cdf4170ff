"""Zero-shot CLIP: the template with the class name, nothing trained (Radford et al. 2021, section 3.1.4)."""

from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.feature_config import ZeroShotConfig
from workers.methods.feature_method import FeatureMethod
from workers.methods.method import TaskInfo


class ZeroShot(FeatureMethod):
    """No parameters and no edits; the yardstick beside every trained method."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: ZeroShotConfig):
        super().__init__(clip, tasks, config)
        self._templates = config.templates

    def group_shared(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def templates(self, task: str) -> tuple[str, ...]:
        """The config's, averaged; the task's own if there are none, and for captions."""
        own = not self._templates or self.infos[task].kind == "retrieval"
        return super().templates(task) if own else self._templates
