"""Settings of the methods that learn prompt tokens.  Torch-free."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from workers.clip.config import BackboneShape
from workers.data.config import TaskKind
from workers.methods.base_config import HALVES, MethodSpec, OptimizerDefaults, Sharing


class PromptSpec(MethodSpec):
    """Prompt tokens of a group and of a task stand side by side, as MmAP-MT defines it (Xin et al. 2024, eq. 5)."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped", "grouped+task")
    refusals: ClassVar[dict[Sharing, str]] = {"half": HALVES}


class CoOpConfig(PromptSpec):
    """Context optimisation (Zhou et al., IJCV 2022): learned vectors in the place of the words around a class name."""

    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("sgd", 0.002, 5e-4)

    kind: Literal["coop"] = "coop"
    num_context_tokens: int | None = Field(default=None, ge=1, le=64)
    """Learned vectors (M).  Left out: 16, or as many as `init_words` has words."""
    init_words: str | None = Field(default=None, min_length=1, max_length=200)
    """Words whose embeddings the context starts from (`a photo of a`), each one token.  Left out: small random
    numbers."""
    class_specific: bool = False
    """Every class has a context of its own.  Where tasks share a set they must have the same class names in the same
    order."""
    class_position: Literal["end", "middle", "front"] = "end"
    """Where the class name stands: after the context, in its middle, or before it.  With a group's and a task's
    context both count as one, the group's first."""
    sharing: Sharing = "alone"
    """Which parameter sets exist: see `Sharing`.  With `all` it is the CoOp-MT of multi-task comparisons."""

    @model_validator(mode="after")
    def _words_are_as_many_as_tokens(self) -> "CoOpConfig":
        num_words = len((self.init_words or "").split())
        if self.init_words is not None and self.num_context_tokens not in (None, num_words):
            raise ValueError(
                f"num_context_tokens={self.num_context_tokens} but init_words={self.init_words!r} has {num_words} "
                "words. Leave num_context_tokens out."
            )
        if self.init_words is not None and num_words == 0:
            raise ValueError(f"init_words={self.init_words!r} holds no word. Use 'a photo of a', or leave it out.")
        return self

    @property
    def context_length(self) -> int:
        """M."""
        return self.num_context_tokens or len((self.init_words or "").split()) or 16

    def task_kinds(self) -> tuple[TaskKind, ...]:
        """All; captions take a context before them, and have no classes with contexts of their own."""
        if not self.class_specific and self.class_position == "end":
            return self.kinds
        return tuple(kind for kind in self.kinds if kind != "retrieval")

    @property
    def needs_equal_classes(self) -> bool:
        """Where every class has a context of its own."""
        return self.class_specific

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """M*D_text, or that for every class."""
        return self.context_length * shape.text_width * (num_classes if self.class_specific else 1)


class VPTConfig(PromptSpec):
    """Visual prompt tuning (Jia et al., ECCV 2022): learned tokens in the image tower; the text tower is left alone."""

    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("sgd", 0.0025, 5e-4)

    kind: Literal["vpt"] = "vpt"
    num_tokens: int = Field(default=8, ge=1, le=64)
    """Prompt tokens per prompted layer (b)."""
    deep: bool = True
    """Fresh tokens in every prompted layer; otherwise in the first layer only (VPT-shallow)."""
    depth: int | None = Field(default=None, ge=1)
    """Prompted layers of VPT-deep, counted from the first.  Left out: every layer of the image tower."""
    init: Literal["uniform", "normal"] = "uniform"
    """`uniform`: -v to v with v = sqrt(6 / (3 p^2 + D)), p the patch size, as published; `normal`: standard deviation
    0.02, as in prompt methods for CLIP."""
    before_ln_pre: bool = False
    """The first layer's tokens pass the LayerNorm between embedding and first block, as VPT's ports to CLIP do it."""
    sharing: Sharing = "alone"
    """Which parameter sets exist: see `Sharing`.  With `all` it is the VPT-MT of multi-task comparisons."""

    @model_validator(mode="after")
    def _shallow_is_one_layer(self) -> "VPTConfig":
        if not self.deep and self.depth not in (None, 1):
            raise ValueError(f"depth={self.depth} is for deep prompts. Leave depth out, or set deep: true.")
        return self

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """K*b*D_image."""
        depth = (self.depth or shape.image_layers) if self.deep else 1
        return depth * self.num_tokens * shape.image_width


class VisionLanguagePromptsConfig(PromptSpec):
    """Independent vision-language prompts (the baseline of MaPLe, Khattak et al., CVPR 2023): learned tokens in both
    towers that know nothing of each other."""

    kind: Literal["vl_prompts"] = "vl_prompts"
    num_text_tokens: int = Field(default=2, ge=1, le=64)
    """Prompt tokens per layer of the text tower."""
    num_image_tokens: int = Field(default=2, ge=1, le=64)
    """Prompt tokens per layer of the image tower."""
    depth: int | None = Field(default=None, ge=1)
    """Prompted layers, counted from the first.  Left out: every layer of the shallower tower."""
    before_ln_pre: bool = False
    """The first layer's image tokens pass the LayerNorm between embedding and first block."""
    sharing: Sharing = "alone"
    """Which parameter sets exist: see `Sharing`."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """K*(b_text*D_text + b_image*D_image)."""
        widths = self.num_text_tokens * shape.text_width + self.num_image_tokens * shape.image_width
        return (self.depth or shape.layers) * widths


class MaPLeConfig(PromptSpec):
    """Multi-modal prompt learning (Khattak et al., CVPR 2023): learned text tokens, and a linear coupler per layer that
    turns them into image tokens."""

    kind: Literal["maple"] = "maple"
    num_tokens: int = Field(default=2, ge=1, le=64)
    """Prompt tokens per layer and tower (b)."""
    depth: int | None = Field(default=None, ge=1)
    """Prompted layers (J), counted from the first.  Left out: 9, or every layer of a shallower tower."""
    init_words: str = Field(default="a photo of a", max_length=200)
    """The first layer's text tokens start from the embeddings of the first b of these words, each one token; from small
    random numbers if there are fewer than b of them."""
    keep_template: bool = True
    """The task's template stays whole behind the tokens.  False: the sentence of the published code, `init_words` whose
    first b words the tokens replace, then the class name and a full stop.  Captions stay whole either way."""
    before_ln_pre: bool = False
    """The first layer's image tokens pass the LayerNorm between embedding and first block, as in the published code."""
    sharing: Sharing = "alone"
    """Which parameter sets exist: see `Sharing`.  With `all` it is the MaPLe-MT of multi-task comparisons."""

    @property
    def words(self) -> list[str]:
        """The words of `init_words`."""
        return self.init_words.split()

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """J*(D_text*D_image + D_image) in the couplers and J*b*D_text in the text tokens."""
        depth = self.depth or min(9, shape.layers)
        return depth * ((shape.text_width + 1) * shape.image_width + self.num_tokens * shape.text_width)


class MmAPConfig(PromptSpec):
    """Multi-modal alignment prompts (Xin et al., AAAI 2024): one source prompt, scaled by Kronecker products into
    text and image prompts of every prompted layer."""

    kind: Literal["mmap"] = "mmap"
    num_tokens: int = Field(default=4, ge=1, le=64)
    """Prompt tokens per layer and modality (b)."""
    source_shape: tuple[int, int] = (2, 2)
    """Shape (m, n) of the source prompt P_s.  m divides num_tokens; n divides both tower widths."""
    depth: int | None = Field(default=None, ge=1)
    """Prompted layers (K), counted from the first.  Left out: every layer of the shallower tower."""
    modality: Literal["both", "text", "vision"] = "both"
    """Prompt both towers, or one only (an ablation)."""
    sharing: Sharing = "grouped+task"
    """Which parameter sets exist: see `Sharing`."""
    group_reduce: Literal["sum", "mean"] = "sum"
    """How the group-shared part's loss is reduced over its tasks: the paper accumulates (`sum`)."""

    @model_validator(mode="after")
    def _source_divides_tokens(self) -> "MmAPConfig":
        m, n = self.source_shape
        if m < 1 or n < 1:
            raise ValueError(f"source_shape={list(self.source_shape)}: both sides must be at least 1.")
        if self.num_tokens % m:
            raise ValueError(
                f"source_shape={list(self.source_shape)}: its first side {m} must divide num_tokens={self.num_tokens}. "
                f"Use a divisor of {self.num_tokens}."
            )
        return self

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """N1 = m*n + K*b*(D_text + D_image)/(m*n) (Xin et al. 2024, section 3.2)."""
        m, n = self.source_shape
        widths = {"both": shape.text_width + shape.image_width, "text": shape.text_width, "vision": shape.image_width}
        return m * n + (self.depth or shape.layers) * self.num_tokens * widths[self.modality] // (m * n)


def paper_budget(sharing: Sharing = "grouped+task") -> MmAPConfig:
    """The profile that reproduces the paper's 0.09 % of ViT-B/16 at two groups: b=4, m x n = 2 x 1, K=9."""
    return MmAPConfig(num_tokens=4, source_shape=(2, 1), depth=9, sharing=sharing)
