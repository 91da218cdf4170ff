"""Independent vision-language prompts: the baseline that MaPLe is measured against (Khattak et al., CVPR 2023, arXiv
2210.03117, section 3.2 and Table 1).

Deep prompts in both towers, without a function from one to the other:

    [start, _, words_k] = L_k([start, P_k, words_{k-1}])      [c_k, _, E_k] = V_k([c_{k-1}, Q_k, E_{k-1}])

    # K prompted layers, b prompt tokens, D tower width
"""

from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet
from workers.methods.prompt_config import VisionLanguagePromptsConfig
from workers.methods.prompts import PromptMethod, prompted_layers, small_normal


class VisionLanguagePrompts(PromptMethod):
    """The prompts of one group.  A set: `text` [K, b_text, D_text] and `image` [K, b_image, D_image]."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: VisionLanguagePromptsConfig, *, seed: int):
        self._vl_prompts = config
        layers = min(clip.text.layers, clip.image.layers)
        self.depth = prompted_layers("vl_prompts", config.depth, layers, towers="both towers have")
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """K*(b_text*D_text + b_image*D_image) small random numbers."""
        config, clip = self._vl_prompts, self.clip
        return {
            "text": small_normal((self.depth, config.num_text_tokens, clip.text.width), rng),
            "image": small_normal((self.depth, config.num_image_tokens, clip.image.width), rng),
        }

    def text_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[K, b_text, D_text]"""
        return part["text"]

    def image_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[K, b_image, D_image]"""
        return part["image"]
