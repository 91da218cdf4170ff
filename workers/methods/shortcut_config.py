"""Settings of the method that works beside the towers.  Torch-free."""

from typing import ClassVar, Literal

from pydantic import Field

from workers.clip.config import BackboneShape
from workers.methods.base_config import MethodSpec, OptimizerDefaults, Sharing


class ShortcutConfig(MethodSpec):
    """CAVL's Adapter I (arXiv 2304.04399, section 4.2.2): beside each frozen tower a small trainable block looks at
    the same input, and an output block fuses both.  Sizes and settings are ours: the paper gives none."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped")
    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-4, 0.01)

    kind: Literal["shortcut"] = "shortcut"
    lite: bool = False
    """A bottleneck MLP on the mean of the tokens a position may see, in place of a transformer block."""
    reduction: int = Field(default=8, ge=1, le=64)
    """Under `lite`: tower width over bottleneck width."""
    sharing: Sharing = "all"
    """Who shares the blocks: see `Sharing`."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """Per tower one block, 12 D^2 + 13 D (`lite`: 2 D k), and one output block, 2 E^2 + E."""
        blocks = 0
        for width in (shape.image_width, shape.text_width):
            blocks += 2 * width * self.hidden(width) if self.lite else 12 * width**2 + 13 * width
        return blocks + 2 * (2 * shape.embed_dim**2 + shape.embed_dim)

    def hidden(self, width: int) -> int:
        """Bottleneck width (k) in a tower of this width, rounded up."""
        return -(-width // self.reduction)
