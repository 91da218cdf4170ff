"""MmAP: multi-modal alignment prompts (Xin et al., AAAI 2024, arXiv 2312.08636, sections 3.2 and 3.3).

One source prompt P_s serves both modalities and all layers; layer k's prompts are Kronecker products with a scaling
matrix of their own:

    P_text^k = W_text^k (x) P_s        P_image^k = W_image^k (x) P_s

In MmAP-MT a group of tasks shares one such set and every task has another; both stand side by side in every prompted
layer.  The group's loss is the sum of its tasks' losses.

    # K prompted layers, b prompt tokens, (m, n) shape of P_s, D tower width
"""

from collections.abc import Sequence

import torch

from workers.clip.frozen import FrozenCLIP
from workers.methods.kronecker import kronecker
from workers.methods.method import TaskInfo
from workers.methods.parameter_sets import ParameterSet
from workers.methods.prompt_config import MmAPConfig
from workers.methods.prompts import PromptMethod, prompted_layers

BALANCED_STD = 0.02**0.5
"""Root-mean-square of both factors, so that prompts start at 0.02 as in CoOp.  The paper's initialisation is not
public; with std 1 for one factor and 0.02 for the other, steps in prompt space are 110 times larger or training
stalls."""


class MmAP(PromptMethod):
    """The prompts of one group.  A set: `source` [m, n], `scale_text` and `scale_image` [K, b/m, D/n]."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: MmAPConfig, *, seed: int):
        self._mmap = config
        layers = min(clip.text.layers, clip.image.layers)
        self.depth = prompted_layers("mmap", config.depth, layers, towers="both towers have")
        check_widths(config, text_width=clip.text.width, image_width=clip.image.width)
        super().__init__(clip, tasks, config, seed=seed)

    def new_set(self, rng: torch.Generator, task: TaskInfo | None) -> ParameterSet:
        """The factors: m*n + K*b*(D_text + D_image)/(m*n) numbers."""
        m, n = self._mmap.source_shape
        rows = self._mmap.num_tokens // m
        made = {"source": _exact_rms((m, n), rng)}
        if self._mmap.modality != "vision":
            made["scale_text"] = _exact_rms((self.depth, rows, self.clip.text.width // n), rng)
        if self._mmap.modality != "text":
            made["scale_image"] = _exact_rms((self.depth, rows, self.clip.image.width // n), rng)
        return made

    def text_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[K, b, D_text]"""
        return kronecker(part["scale_text"], part["source"]) if "scale_text" in part else None

    def image_prompts(self, part: ParameterSet) -> torch.Tensor | None:
        """[K, b, D_image]"""
        return kronecker(part["scale_image"], part["source"]) if "scale_image" in part else None

    @property
    def group_gradient_scale(self) -> float:
        """1 for the paper's accumulated loss; 1/|group| for its mean."""
        return 1.0 if self._mmap.group_reduce == "sum" else 1.0 / len(self.tasks)


def check_widths(config: MmAPConfig, *, text_width: int, image_width: int) -> None:
    """Raises ValueError if the source prompt does not tile both towers' widths."""
    n = config.source_shape[1]
    for tower, width in (("text", text_width), ("image", image_width)):
        if width % n:
            raise ValueError(
                f"mmap: source_shape={list(config.source_shape)}: its second side {n} must divide the {tower} "
                f"tower's width {width}."
            )


def _exact_rms(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Normal numbers scaled to a root-mean-square of exactly BALANCED_STD: with four of them the draw alone varies
    too much."""
    values = torch.randn(shape, generator=rng)
    return values * (BALANCED_STD / values.square().mean().sqrt())
