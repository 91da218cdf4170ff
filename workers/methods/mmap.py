"""MmAP: multi-modal alignment prompts (Xin et al., AAAI 2024, arXiv 2312.08636, sections 3.2 and 3.3).

One source prompt P_s serves both modalities and all layers; layer k's prompts are Kronecker products with a scaling
matrix of their own:

    P_text^k = W_text^k (x) P_s        P_image^k = W_image^k (x) P_s

In MmAP-MT a group of tasks shares one such set and every task has another; both stand side by side in every prompted
layer: [CLS | start, group prompts, task prompts, tokens].  The group's loss is the sum of its tasks' losses.

    # K prompted layers, b prompt tokens, (m, n) shape of P_s, D tower width
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workers.clip.frozen import FrozenCLIP
from workers.clip.seam import Edits
from workers.methods.config import MmAPConfig
from workers.methods.kronecker import kronecker
from workers.methods.method import Method, TowerEdits
from workers.methods.seeding import generator

BALANCED_STD = 0.02**0.5
"""Root-mean-square of both factors, so that prompts start at 0.02 as in CoOp.  The paper's initialisation is not
public; with std 1 for one factor and 0.02 for the other, steps in prompt space are 110 times larger or training
stalls."""


@dataclass(frozen=True)
class PromptSet:
    """The factors of one MmAP: m*n + K*b*(D_text + D_image)/(m*n) numbers."""

    source: torch.Tensor
    """[m, n]"""
    scale_text: torch.Tensor
    """[K, b/m, D_text/n]"""
    scale_image: torch.Tensor
    """[K, b/m, D_image/n]"""

    def named(self) -> dict[str, torch.Tensor]:
        """The three tensors by name."""
        return {
            "source": self.source,
            "scale_text": self.scale_text,
            "scale_image": self.scale_image,
        }

    def text(self) -> torch.Tensor:
        """[K, b, D_text]"""
        return kronecker(self.scale_text, self.source)

    def image(self) -> torch.Tensor:
        """[K, b, D_image]"""
        return kronecker(self.scale_image, self.source)


class MmAP(Method):
    """The prompts of one group: shared, per task, or both, as `config.sharing` says."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[str], config: MmAPConfig, *, seed: int):
        super().__init__(clip, tasks)
        self.config = config
        self.depth = prompted_layers(config, text_layers=clip.text.layers, image_layers=clip.image.layers)
        check_widths(config, text_width=clip.text.width, image_width=clip.image.width)
        has_shared = config.sharing in ("all", "grouped", "grouped+task")
        has_own = config.sharing in ("alone", "grouped+task")
        self._shared = self._new_set(seed, "shared") if has_shared else None
        self._own = {task: self._new_set(seed, f"task {task}") for task in self.tasks} if has_own else {}

    def group_shared(self) -> dict[str, torch.Tensor]:
        """The group's factors."""
        return self._shared.named() if self._shared else {}

    def task_specific(self, task: str) -> dict[str, torch.Tensor]:
        """The task's factors."""
        return self._own[task].named() if self._own else {}

    def edits(self) -> TowerEdits:
        """Prompts of every task, group prompts first; one copy in all if no task has its own."""
        image = [part.image() for part in [self._shared] if part] if not self._own else []
        text = [part.text() for part in [self._shared] if part] if not self._own else []
        if self._own:
            shared = (self._shared.text(), self._shared.image()) if self._shared else None
            for own in self._own.values():
                text.append(own.text() if shared is None else torch.cat([shared[0], own.text()], dim=1))
                image.append(own.image() if shared is None else torch.cat([shared[1], own.image()], dim=1))
        copies = tuple(range(len(self.tasks))) if self._own else (0,) * len(self.tasks)
        return TowerEdits(
            image=Edits(torch.stack(image)),
            text=Edits(torch.stack(text)),
            copies=copies,
        )

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt tokens in each prompted layer."""
        return self.config.num_tokens * (bool(self._shared) + bool(self._own))

    @property
    def batch_key(self) -> tuple:
        """Groups with as many tokens and layers fit into one pass."""
        return ("mmap", self.num_prompt_tokens, self.depth)

    @property
    def group_gradient_scale(self) -> float:
        """1 for the paper's accumulated loss; 1/|group| for its mean."""
        return 1.0 if self.config.group_reduce == "sum" else 1.0 / len(self.tasks)

    def _new_set(self, seed: int, name: str) -> PromptSet:
        rng = generator(seed, name)
        m, n = self.config.source_shape
        rows = self.config.num_tokens // m
        return PromptSet(
            source=_exact_rms((m, n), rng, self.clip.device),
            scale_text=_exact_rms((self.depth, rows, self.clip.text.width // n), rng, self.clip.device),
            scale_image=_exact_rms((self.depth, rows, self.clip.image.width // n), rng, self.clip.device),
        )


def prompted_layers(config: MmAPConfig, *, text_layers: int, image_layers: int) -> int:
    """K: the configured depth, or every layer of the shallower tower."""
    shallower = min(text_layers, image_layers)
    if config.depth is not None and config.depth > shallower:
        raise ValueError(
            f"mmap: depth={config.depth} exceeds the {shallower} layers that both towers have. Use at most {shallower}."
        )
    return config.depth or shallower


def check_widths(config: MmAPConfig, *, text_width: int, image_width: int) -> None:
    """Raises ValueError if the source prompt does not tile both towers' widths."""
    n = config.source_shape[1]
    for tower, width in (("text", text_width), ("image", image_width)):
        if width % n:
            raise ValueError(
                f"mmap: source_shape={list(config.source_shape)}: its second side {n} must divide the {tower} "
                f"tower's width {width}."
            )


def _exact_rms(shape: tuple[int, ...], rng: torch.Generator, device: torch.device) -> torch.Tensor:
    """Normal numbers scaled to a root-mean-square of exactly BALANCED_STD: with four of them the draw alone varies
    too much."""
    values = torch.randn(shape, generator=rng)
    return (values * (BALANCED_STD / values.square().mean().sqrt())).to(device).requires_grad_()
