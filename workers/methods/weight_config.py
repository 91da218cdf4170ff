"""Settings of the methods that train tensors in place of the towers' frozen ones.  Torch-free."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from workers.clip.config import BackboneShape
from workers.methods.base_config import HALVES, MethodSpec, OptimizerDefaults, Sharing


class WeightSpec(MethodSpec):
    """One set of weights for whoever shares it; the text tower is run again at every step."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped")


class BitFitConfig(WeightSpec):
    """BitFit (Ben Zaken et al., ACL 2022): every bias of both towers is trained, nothing else."""

    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-3, 0.0)
    """The learning rate of the released code.  No weight decay: a key's bias shifts all scores of a query alike and
    has no gradient, so decay alone would move it, and the other biases would be drawn to zero instead of to CLIP's.
    A `training.weight_decay` that a job gives is obeyed all the same."""

    kind: Literal["bitfit"] = "bitfit"
    layer_norms: bool = True
    """Also the biases of the LayerNorms."""
    sharing: Sharing = "all"
    """Who shares the biases: see `Sharing`."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """171,008 on ViT-B/16; 138,240 without those of LayerNorms."""
        return shape.num_biases - (0 if self.layer_norms else shape.num_norm_biases)


class LayerNormConfig(WeightSpec):
    """LayerNorm tuning: weights and biases of all LayerNorms of both towers (as VL-Adapter, Sung et al., CVPR 2022,
    unfreezes them; here alone)."""

    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-3, 0.0)
    """VL-Adapter's learning rate; its list of tensors without weight decay holds all LayerNorms."""

    kind: Literal["layer_norm"] = "layer_norm"
    sharing: Sharing = "all"
    """Who shares the LayerNorms: see `Sharing`."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """65,536 on ViT-B/16."""
        return shape.num_norm_weights + shape.num_norm_biases


class FullFineTuningConfig(WeightSpec):
    """Full fine-tuning: every tensor of both towers, their embeddings and projections too.  The temperature and the
    bias of the logits stay frozen, as in every method.

    A set is as large as the backbone, and AdamW keeps two more numbers per parameter: count 12 bytes per parameter and
    set, beside the frozen backbone and the gradients.
    """

    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-5, 0.1)
    """Ours, from what is told of fine-tuning CLIP: it diverges at rates that suit few parameters."""

    kind: Literal["full_fine_tuning"] = "full_fine_tuning"
    sharing: Sharing = "all"
    """Who shares the weights: see `Sharing`."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """149,620,736 on ViT-B/16: all of its 149,620,737 parameters but the temperature."""
        return shape.num_parameters - shape.num_frozen_always


class LoRAConfig(WeightSpec):
    """LoRA (Hu et al., ICLR 2022) as VL-Adapter sets it: low-rank updates of the attention's projections in both
    towers.  Without the released code's dropout before the update, which takes no part in inference."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped", "grouped+task")
    refusals: ClassVar[dict[Sharing, str]] = {"half": HALVES}
    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-3, 0.01)

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=4, ge=1, le=512)
    """Rank of an update (r).  VL-Adapter's runs use 128."""
    alpha: float = Field(default=32.0, gt=0)
    """Updates are scaled by alpha / rank."""
    targets: tuple[Literal["query", "key", "value"], ...] = ("query", "value")
    """Which projections are updated."""
    biases: bool = False
    """Also trains an offset to every bias of both towers, as the released code trains the biases."""
    sharing: Sharing = "all"
    """Who shares the updates: see `Sharing`.  With `grouped+task` the group's update and the task's add up."""

    @field_validator("targets")
    @classmethod
    def _each_once(
        cls, value: tuple[Literal["query", "key", "value"], ...]
    ) -> tuple[Literal["query", "key", "value"], ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"targets={list(value)} must name at least one of query, key and value, each once.")
        return value

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """Sum over towers of layers * targets * 2 * width * rank: 245,760 on ViT-B/16 at rank 4."""
        widths = shape.image_layers * shape.image_width + shape.text_layers * shape.text_width
        return len(self.targets) * 2 * self.rank * widths + (shape.num_biases if self.biases else 0)
