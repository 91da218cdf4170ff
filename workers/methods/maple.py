"""MaPLe: multi-modal prompt learning (Khattak et al., CVPR 2023, arXiv 2210.03117, section 3.3).

Text tokens P_k are learned in the first J layers; a linear coupler per layer makes image tokens of them:

    Q_k = P_k F_k + f_k        [c_k, _, E_k] = V_k([c_{k-1}, Q_k, E_{k-1}])        k = 1 .. J

P_1 starts from the embeddings of `a photo of a`, the others from small random numbers; the couplers of the layers after
the first start alike.  In the published code P_1 *replaces* the first b words of that sentence and the rest stays, so
with b = 2 the classes read `[p_1] [p_2] of a NAME.`, whatever the task's own template is; here the template stays whole
behind the tokens unless `keep_template` is false.

    # J prompted layers, b prompt tokens, D tower width
"""

from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet
from workers.methods.prompt_config import MaPLeConfig
from workers.methods.prompts import PromptMethod, prompted_layers, small_normal, word_vectors

DEPTH = 9
"""Layers that are prompted where the config names no depth, and both towers have them."""


class MaPLe(PromptMethod):
    """The prompts of one group.  A set: `text` [J, b, D_text], `coupler_weight` [J, D_image, D_text] and `coupler_bias`
    [J, D_image]."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: MaPLeConfig, *, seed: int):
        self._maple = config
        layers = min(clip.text.layers, clip.image.layers)
        self.depth = prompted_layers("maple", config.depth or min(DEPTH, layers), layers, towers="both towers have")
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """J*(D_text*D_image + D_image) + J*b*D_text numbers."""
        width, num_tokens = self.clip.text.width, self._maple.num_tokens
        text = small_normal((self.depth, num_tokens, width), rng)
        if num_tokens <= len(self._maple.words):
            text[0] = word_vectors(self.clip, self._maple.words[:num_tokens])
        bound = width**-0.5  # torch's initialisation of a linear layer
        couplers = bound * (2 * torch.rand(2, self.clip.image.width, width + 1, generator=rng) - 1)
        couplers = couplers[[0] + [1] * (self.depth - 1)]
        return {
            "text": text,
            "coupler_weight": couplers[..., :width].clone(),
            "coupler_bias": couplers[..., width].clone(),
        }

    def text_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[J, b, D_text]"""
        return part["text"]

    def image_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[J, b, D_image]"""
        return torch.baddbmm(part["coupler_bias"][:, None], part["text"], part["coupler_weight"].transpose(1, 2))

    def templates(self, task: str) -> tuple[str, ...]:
        """The task's own, or what is left of the published code's sentence."""
        if self._maple.keep_template or self.infos[task].kind == "retrieval":
            return super().templates(task)
        return (" ".join([*self._maple.words[self._maple.num_tokens :], "{}."]),)
