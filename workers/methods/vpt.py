"""VPT: visual prompt tuning (Jia et al., ECCV 2022, arXiv 2203.12119, section 3.2).

Learned tokens beside the patches; their outputs are dropped and their places filled again in every prompted layer:

    deep:     [c_k, _, E_k] = L_k([c_{k-1}, P_{k-1}, E_{k-1}])        k = 1 .. K
    shallow:  the same for the first layer alone, after which the tokens are carried on

There is no head: images are matched with the frozen text features of the classes.

    # K prompted layers, b prompt tokens, D image width
"""

from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet
from workers.methods.prompt_config import VPTConfig
from workers.methods.prompts import PromptMethod, prompted_layers, small_normal


class VPT(PromptMethod):
    """The image prompts of one group.  A set: `prompts` [K, b, D]."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: VPTConfig, *, seed: int):
        self._vpt = config
        depth = config.depth if config.deep else 1
        self.depth = prompted_layers("vpt", depth, clip.image.layers, towers="the image tower has")
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """K*b*D numbers: prompts start like filters of the patch embedding (Glorot), or small as in CLIP's prompts."""
        shape = (self.depth, self._vpt.num_tokens, self.clip.image.width)
        if self._vpt.init == "normal":
            return {"prompts": small_normal(shape, rng)}
        bound = (6 / (3 * self.clip.image.patch_size**2 + self.clip.image.width)) ** 0.5
        return {"prompts": bound * (2 * torch.rand(shape, generator=rng) - 1)}

    def image_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[K, b, D]"""
        return part["prompts"]
