"""What can be trained on a frozen CLIP.  Torch-free; the union below IS the registry of methods."""

from typing import Annotated

from pydantic import Field

from workers.methods.adapter_config import (
    AdapterConfig,
    CAVLAdapterConfig,
    CompacterConfig,
    HyperformerConfig,
    vl_adapter_compacter,
)
from workers.methods.base_config import Sharing
from workers.methods.feature_config import (
    CLIPAdapterConfig,
    LinearProbeConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
    ZeroShotConfig,
)
from workers.methods.prompt_config import (
    CoOpConfig,
    MaPLeConfig,
    MmAPConfig,
    VisionLanguagePromptsConfig,
    VPTConfig,
    paper_budget,
)
from workers.methods.shortcut_config import ShortcutConfig
from workers.methods.weight_config import BitFitConfig, FullFineTuningConfig, LayerNormConfig, LoRAConfig

MethodConfig = Annotated[
    ZeroShotConfig
    | LinearProbeConfig
    | TaskResConfig
    | CLIPAdapterConfig
    | TipAdapterConfig
    | TipAdapterFConfig
    | CoOpConfig
    | VPTConfig
    | VisionLanguagePromptsConfig
    | MaPLeConfig
    | MmAPConfig
    | BitFitConfig
    | LayerNormConfig
    | FullFineTuningConfig
    | LoRAConfig
    | AdapterConfig
    | HyperformerConfig
    | CompacterConfig
    | ShortcutConfig
    | CAVLAdapterConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "AdapterConfig",
    "BitFitConfig",
    "CAVLAdapterConfig",
    "CLIPAdapterConfig",
    "CoOpConfig",
    "CompacterConfig",
    "FullFineTuningConfig",
    "HyperformerConfig",
    "LayerNormConfig",
    "LinearProbeConfig",
    "LoRAConfig",
    "MaPLeConfig",
    "MethodConfig",
    "MmAPConfig",
    "Sharing",
    "ShortcutConfig",
    "TaskResConfig",
    "TipAdapterConfig",
    "TipAdapterFConfig",
    "VPTConfig",
    "VisionLanguagePromptsConfig",
    "ZeroShotConfig",
    "paper_budget",
    "vl_adapter_compacter",
]
