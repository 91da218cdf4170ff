"""Settings of the methods that work on features of the frozen towers.  Torch-free."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from workers.clip.config import BackboneShape
from workers.data.config import TaskKind
from workers.methods.base_config import BESIDE, HALVES, MethodSpec, OptimizerDefaults, Sharing

CLASS_LISTS_DIFFER = "its parameters belong to the classes of one task"
NO_SHARING: dict[Sharing, str] = {
    "all": CLASS_LISTS_DIFFER,
    "grouped": CLASS_LISTS_DIFFER,
    "grouped+task": CLASS_LISTS_DIFFER,
    "half": CLASS_LISTS_DIFFER,
}


class FeatureSpec(MethodSpec):
    """A method on features that are computed once."""

    feature_side: ClassVar[bool] = True


class TemplateSpec(FeatureSpec):
    """One that compares images with texts."""

    templates: tuple[str, ...] = ()
    """Several templates to average over, each with `{}` for the class name; empty: the task's own."""

    @field_validator("templates")
    @classmethod
    def _each_has_one_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_templates(value)


class ViewsSpec(TemplateSpec):
    """One that learns from augmented images."""

    views: int = Field(default=10, ge=1, le=100)
    """Random crops kept of every training image, used in turn, as `training.augment` draws them (Tip-Adapter's code
    keeps half of the image at least: `crop_scale: [0.5, 1.0]`); without augmentation there is one plain view."""


class ZeroShotConfig(TemplateSpec):
    """CLIP as it is: the template with the class name, nothing trained (Radford et al. 2021)."""

    trains: ClassVar[bool] = False

    kind: Literal["zero_shot"] = "zero_shot"


class LinearProbeConfig(FeatureSpec):
    """Logistic regression on plain image features, solved before the first step (Radford et al. 2021; the settings are
    CoOp's).  It uses no text."""

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone",)
    refusals: ClassVar[dict[Sharing, str]] = NO_SHARING
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multi_label")
    trains: ClassVar[bool] = False

    kind: Literal["linear_probe"] = "linear_probe"
    sharing: Sharing = "alone"
    """Every task its own."""
    c: float | None = Field(default=None, gt=0)
    """The inverse strength of the L2 penalty.  Left out: searched on the task's validation images over 1e-6 to 1e6;
    1 for a task without any."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """W [C, E] and b [C]."""
        return num_classes * (shape.embed_dim + 1)


class TaskResConfig(ViewsSpec):
    """Task residuals (Yu et al., CVPR 2023): the class features are frozen and a learned residual is added to them.

    Published with Adam; ours is AdamW, whose decay does not pass through the step's scaling.
    """

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone",)
    refusals: ClassVar[dict[Sharing, str]] = NO_SHARING
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multi_label")
    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 2e-3, 5e-4)

    kind: Literal["taskres"] = "taskres"
    alpha: float = Field(default=0.5, ge=0)
    """What the residual is multiplied with.  The class features it is added to are not normalised."""
    enhanced: bool = False
    """Tune the text projection on the task's training images first, and add the residual to what that gives."""
    sharing: Sharing = "alone"
    """Every task its own."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """x [C, E]."""
        return num_classes * shape.embed_dim


class CLIPAdapterConfig(ViewsSpec):
    """CLIP-Adapter (Gao et al. 2021): a bottleneck on the features, mixed with them.

    Published with learning rate 1e-5, which is the default; it wants the many epochs it was published with, and a
    short run more (1e-3).
    """

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped")
    refusals: ClassVar[dict[Sharing, str]] = {"grouped+task": BESIDE, "half": HALVES}
    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-5, 5e-4)

    kind: Literal["clip_adapter"] = "clip_adapter"
    modality: Literal["vision", "text", "both"] = "vision"
    """Which features pass through an adapter."""
    reduction: int = Field(default=4, ge=1)
    """How many times narrower than the features the bottleneck is."""
    alpha: float = Field(default=0.2, ge=0, le=1)
    """The adapter's share in the mixture; the features keep the rest."""
    sharing: Sharing = "alone"
    """Which adapters exist: see `Sharing`."""

    def one_set(self, shape: BackboneShape, num_classes: int) -> int:
        """2 * E * (E / reduction) per modality."""
        one = 2 * shape.embed_dim * self.bottleneck(shape.embed_dim)
        return 2 * one if self.modality == "both" else one

    def bottleneck(self, embed_dim: int) -> int:
        """Width of the bottleneck."""
        return max(1, embed_dim // self.reduction)


class TipSpec(ViewsSpec):
    """A cache of the training images' features that votes with its labels (Zhang et al., ECCV 2022).

    With `all` or `grouped` the caches of tasks with the same classes are one.
    """

    sharings: ClassVar[tuple[Sharing, ...]] = ("alone", "all", "grouped")
    refusals: ClassVar[dict[Sharing, str]] = {"grouped+task": BESIDE, "half": HALVES}
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    alpha: float = Field(default=1.17, ge=0)
    """What the cache's votes are multiplied with."""
    beta: float = Field(default=1.0, gt=0)
    """How sharply a vote falls with the distance."""
    search: bool = True
    """Look for better alpha and beta on the validation images, before the first step.  Without validation images they
    stay as given."""
    sharing: Sharing = "alone"
    """Which caches exist: see `Sharing`."""

    @property
    def needs_equal_classes(self) -> bool:
        """A pooled cache votes for one list of classes."""
        return True


class TipAdapterConfig(TipSpec):
    """Tip-Adapter (Zhang et al., ECCV 2022): a cache of training features, nothing trained."""

    trains: ClassVar[bool] = False

    kind: Literal["tip_adapter"] = "tip_adapter"


class TipAdapterFConfig(TipSpec):
    """Tip-Adapter-F (Zhang et al., ECCV 2022): the cache's keys are trained.

    Published with eps 1e-4, which half precision needed; ours trains in fp32 and with the eps of every AdamW here.
    """

    defaults: ClassVar[OptimizerDefaults] = OptimizerDefaults("adamw", 1e-3, 0.01)

    kind: Literal["tip_adapter_f"] = "tip_adapter_f"

    def per_train_image(self, shape: BackboneShape) -> int:
        """A key [E]."""
        return shape.embed_dim


def check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates themselves; ValueError for one without exactly one place for the class name."""
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must hold `{{}}` exactly once, where the class name goes.")
    return templates
