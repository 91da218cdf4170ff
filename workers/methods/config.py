"""What can be trained on a frozen CLIP.  Torch-free; the union below IS the registry of methods."""

from typing import Annotated

from pydantic import Field

from workers.methods.base_config import Sharing
from workers.methods.feature_config import (
    CLIPAdapterConfig,
    LinearProbeConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
    ZeroShotConfig,
)
from workers.methods.prompt_config import MmAPConfig, paper_budget
from workers.methods.shortcut_config import ShortcutConfig
from workers.methods.weight_config import BitFitConfig, FullFineTuningConfig, LayerNormConfig, LoRAConfig

MethodConfig = Annotated[
    ZeroShotConfig
    | LinearProbeConfig
    | TaskResConfig
    | CLIPAdapterConfig
    | TipAdapterConfig
    | TipAdapterFConfig
    | MmAPConfig
    | BitFitConfig
    | LayerNormConfig
    | FullFineTuningConfig
    | LoRAConfig
    | ShortcutConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "BitFitConfig",
    "CLIPAdapterConfig",
    "FullFineTuningConfig",
    "LayerNormConfig",
    "LinearProbeConfig",
    "LoRAConfig",
    "MethodConfig",
    "MmAPConfig",
    "Sharing",
    "ShortcutConfig",
    "TaskResConfig",
    "TipAdapterConfig",
    "TipAdapterFConfig",
    "ZeroShotConfig",
    "paper_budget",
]
