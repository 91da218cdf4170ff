"""From a method's config to the method."""

from collections.abc import Sequence

from workers.clip.frozen import FrozenCLIP
from workers.methods.bitfit import BitFit
from workers.methods.clip_adapter import CLIPAdapter
from workers.methods.config import (
    BitFitConfig,
    CLIPAdapterConfig,
    FullFineTuningConfig,
    LayerNormConfig,
    LinearProbeConfig,
    LoRAConfig,
    MethodConfig,
    MmAPConfig,
    ShortcutConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
    ZeroShotConfig,
)
from workers.methods.full_fine_tuning import FullFineTuning
from workers.methods.layer_norm import LayerNormTuning
from workers.methods.linear_probe import LinearProbe
from workers.methods.lora import LoRA
from workers.methods.method import Method, TaskInfo
from workers.methods.mmap import MmAP
from workers.methods.shortcut import Shortcut
from workers.methods.taskres import TaskRes
from workers.methods.tip_adapter import TipAdapter
from workers.methods.zero_shot import ZeroShot


def build_method(config: MethodConfig, clip: FrozenCLIP, tasks: Sequence[TaskInfo], *, seed: int) -> Method:
    """A fresh method for one group.  The same seed gives the same bytes, whatever else is built."""
    match config:
        case ZeroShotConfig():
            return ZeroShot(clip, tasks, config)
        case LinearProbeConfig():
            return LinearProbe(clip, tasks, config, seed=seed)
        case TaskResConfig():
            return TaskRes(clip, tasks, config, seed=seed)
        case CLIPAdapterConfig():
            return CLIPAdapter(clip, tasks, config, seed=seed)
        case TipAdapterConfig() | TipAdapterFConfig():
            return TipAdapter(clip, tasks, config)
        case MmAPConfig():
            return MmAP(clip, tasks, config, seed=seed)
        case BitFitConfig():
            return BitFit(clip, tasks, config, seed=seed)
        case LayerNormConfig():
            return LayerNormTuning(clip, tasks, config, seed=seed)
        case FullFineTuningConfig():
            return FullFineTuning(clip, tasks, config, seed=seed)
        case LoRAConfig():
            return LoRA(clip, tasks, config, seed=seed)
        case ShortcutConfig():
            return Shortcut(clip, tasks, config, seed=seed)
