"""Settings of the adapters that stand in the blocks of both towers.  Torch-free."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from workers.clip.config import BackboneShape
from workers.methods.base_config import HALVES, MethodSpec, OptimizerDefaults, Sharing

Tower = Literal["image", "text"]
Place = Literal["attn", "mlp"]


class AdapterSpec(MethodSpec):
    """Bottlenecks on the output of attention and MLP, before the residual addition (Sung et al. 2022)."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped")
    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-3, 0.01)

    reduction: int = Field(default=8, ge=1)
    """A tower of width d has bottlenecks of width d / reduction.  It divides the widths of the towers adapted."""
    towers: Literal["both", "text", "vision"] = "both"
    """Towers with adapters."""
    places: Literal["both", "attn", "mlp"] = "both"
    """Branches with adapters; `mlp` alone is the variant of VPT's comparison (after Pfeiffer et al.)."""
    task_prefix: bool = False
    """The task's name stands before the template in every sentence (`art: a photo of a dog.`), as VL-Adapter tells
    tasks apart that share their adapters."""
    tune_layer_norms: bool = False
    """Also train the LayerNorms of both towers, as VL-Adapter does.  They belong to the group where it has parameters
    of its own; where every task has its own, tasks take turns in the towers."""

    @model_validator(mode="after")
    def _prefix_tells_tasks_apart(self) -> "AdapterSpec":
        if self.task_prefix and getattr(self, "sharing", None) == "alone":
            raise ValueError(
                "task_prefix=true with sharing=alone: a prefix tells tasks apart that share adapters, and here none "
                "do. Leave task_prefix out, or share (all, grouped)."
            )
        return self

    @property
    def where(self) -> tuple[Place, ...]:
        """Branches of a block that have an adapter."""
        return ("attn", "mlp") if self.places == "both" else (self.places,)

    def has(self, tower: Tower) -> bool:
        """Whether a tower has adapters."""
        return self.towers in ("both", "text" if tower == "text" else "vision")

    def bottleneck(self, tower: Tower, width: int) -> int:
        """The width of a bottleneck in a tower.  ValueError if the reduction does not divide the tower's."""
        if width % self.reduction:
            raise ValueError(
                f"{getattr(self, 'kind', '')}: reduction={self.reduction} does not divide the {tower} tower's width "
                f"{width}. Use a divisor of the width of every adapted tower."
            )
        return width // self.reduction

    def adapters(self, shape: BackboneShape) -> list[tuple[int, int, int]]:
        """(number of adapters, tower width, bottleneck width) of every tower that has adapters."""
        towers: list[tuple[Tower, int, int]] = [
            ("image", shape.image_width, shape.image_layers),
            ("text", shape.text_width, shape.text_layers),
        ]
        return [
            (layers * len(self.where), width, self.bottleneck(tower, width))
            for tower, width, layers in towers
            if self.has(tower)
        ]

    def norms(self, shape: BackboneShape) -> int:
        """Numbers in the LayerNorms that are trained."""
        return shape.num_norm_weights + shape.num_norm_biases if self.tune_layer_norms else 0

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """2dk + k + d per adapter (Sung et al. 2022, section 3.2), and the LayerNorms."""
        return sum(num * (2 * d * k + k + d) for num, d, k in self.adapters(shape)) + self.norms(shape)


class AdapterConfig(AdapterSpec):
    """The bottleneck adapter as VL-Adapter compares it (Sung et al., CVPR 2022): `all` is its Single, `half` its
    Half-shared, `alone` its Multiple adapters."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped", "grouped+task", "half")

    kind: Literal["adapter"] = "adapter"
    sharing: Sharing = "all"
    """Which adapters exist: see `Sharing`.  With `grouped+task` the group's and the task's work in parallel and their
    updates add up."""
    shared_half: Literal["down", "up"] = "down"
    """With `half`: the projection that the group shares, as the paper writes it (`down`) or as its released code does
    it (`up`)."""

    def published(self) -> OptimizerDefaults:
        """VL-Adapter trains Multiple and Half-shared adapters at 3e-4, Single ones at 1e-3.  Its list of biases and
        LayerNorms without weight decay is not kept: our decay holds for all that is trained."""
        return self.defaults._replace(lr=3e-4) if self.sharing in ("alone", "half") else self.defaults

    def sizes(self, shape: BackboneShape, num_classes: int) -> tuple[int, int]:
        """As everywhere, but LayerNorms are never twice, and with `half` one projection is the group's: dk + k of
        `down`, dk + d of `up`."""
        norms = self.norms(shape)
        if self.sharing == "half":
            down = sum(num * (d * k + k) for num, d, k in self.adapters(shape))
            up = sum(num * (d * k + d) for num, d, k in self.adapters(shape))
            return (down + norms, up) if self.shared_half == "down" else (up + norms, down)
        shared, own = super().sizes(shape, num_classes)
        return (shared, own - norms) if self.sharing == "grouped+task" else (shared, own)


class CAVLAdapterConfig(AdapterSpec):
    """CAVL's Adapter II (arXiv 2304.04399, section 4.2.2): Linear, GELU, Linear after attention and feed-forward,
    with a skip.  Its width is not public."""

    kind: Literal["cavl_adapter"] = "cavl_adapter"
    sharing: Sharing = "all"
    """Which adapters exist: see `Sharing`."""


class HyperformerConfig(AdapterSpec):
    """Adapters written by a network that is told task and layer (Mahabadi et al., ACL 2021, as VL-Adapter ports
    it)."""

    refusals: ClassVar[dict[Sharing, str]] = {
        "grouped+task": "what its tasks have of their own is the embedding that its shared network reads, not adapters",
        "half": HALVES,
    }

    kind: Literal["hyperformer"] = "hyperformer"
    sharing: Sharing = "all"
    """Who shares the networks; every task has an embedding of its own.  With `alone` every task has its own networks
    too (a baseline: there is nothing left to share)."""
    embedding_dim: int = Field(default=512, ge=1)
    """Size of the task and layer embeddings."""
    hidden_dim: int = Field(default=128, ge=1)
    """Hidden width of the network that joins the two embeddings."""
    code_dim: int = Field(default=8, ge=2)
    """Size of what it hands to the networks that write the adapters (p).  Above 1: the code is normalised."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """The networks and layer embeddings, without task embeddings."""
        e, h, p, places = self.embedding_dim, self.hidden_dim, self.code_dim, len(self.where)
        joins = 2 * e * h + h + h * p + p + 2 * p
        written = sum(
            num // places * e + joins + places * (p + 1) * (2 * d * k + k + d) for num, d, k in self.adapters(shape)
        )
        return written + self.norms(shape)

    def sizes(self, shape: BackboneShape, num_classes: int) -> tuple[int, int]:
        """The networks, and one embedding per tower for every task."""
        shared, own = super().sizes(shape, num_classes)
        return shared, own + len(self.adapters(shape)) * self.embedding_dim


class CompacterConfig(AdapterSpec):
    """Adapters whose weights are sums of Kronecker products (Mahabadi et al., NeurIPS 2021)."""

    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 3e-3, 0.01)

    kind: Literal["compacter"] = "compacter"
    sharing: Sharing = "all"
    """Which sets exist: see `Sharing`."""
    reduction: int = Field(default=32, ge=1)
    """A tower of width d has bottlenecks of width d / reduction.  It divides the widths of the towers adapted."""
    num_terms: int = Field(default=4, ge=1)
    """Kronecker products per weight, and the side of their left factors (n).  It divides widths and bottlenecks."""
    rank: int | None = Field(default=1, ge=1)
    """Rank of the right factors; null: full matrices."""
    share_rule: bool = True
    """One set of left factors for all weights of all adapters."""
    rule_std: float = Field(default=1e-4, gt=0)
    """Standard deviation of the left factors at the start."""

    def published(self) -> OptimizerDefaults:
        """The original's 3e-3; 1e-3 with full terms, as VL-Adapter trains them."""
        return self.defaults._replace(lr=1e-3) if self.rank is None else self.defaults

    def bottleneck(self, tower: Tower, width: int) -> int:
        """The width of a bottleneck in a tower; the terms must divide it, and the tower's."""
        bottleneck = super().bottleneck(tower, width)
        if width % self.num_terms or bottleneck % self.num_terms:
            raise ValueError(
                f"compacter: num_terms={self.num_terms} must divide the {tower} tower's width {width} and its "
                f"bottleneck {bottleneck} (width / reduction). Use a common divisor, or a smaller reduction."
            )
        return bottleneck

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """n^3 per rule; rank * (d + k), or dk / n of full factors, per weight; biases k + d."""
        n, adapters = self.num_terms, self.adapters(shape)
        factors = sum(num * 2 * (self.rank * (d + k) if self.rank else d * k // n) for num, d, k in adapters)
        rules = 1 if self.share_rule else sum(2 * num for num, _, _ in adapters)
        return rules * n**3 + factors + sum(num * (k + d) for num, d, k in adapters) + self.norms(shape)


def vl_adapter_compacter(sharing: Sharing = "all") -> CompacterConfig:
    """The profile that VL-Adapter compares: two full terms, wider bottlenecks, nothing shared between adapters."""
    return CompacterConfig(num_terms=2, reduction=8, rank=None, share_rule=False, rule_std=0.01, sharing=sharing)
