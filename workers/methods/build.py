"""From a method's config to the method."""

from collections.abc import Sequence

from workers.clip.frozen import FrozenCLIP
from workers.methods.bitfit import BitFit
from workers.methods.config import (
    BitFitConfig,
    FullFineTuningConfig,
    LayerNormConfig,
    LoRAConfig,
    MethodConfig,
    MmAPConfig,
    ShortcutConfig,
    ZeroShotConfig,
)
from workers.methods.full_fine_tuning import FullFineTuning
from workers.methods.layer_norm import LayerNormTuning
from workers.methods.lora import LoRA
from workers.methods.method import Method, TaskInfo
from workers.methods.mmap import MmAP
from workers.methods.shortcut import Shortcut
from workers.methods.zero_shot import ZeroShot


def build_method(config: MethodConfig, clip: FrozenCLIP, tasks: Sequence[TaskInfo], *, seed: int) -> Method:
    """A fresh method for one group.  The same seed gives the same bytes, whatever else is built."""
    match config:
        case ZeroShotConfig():
            return ZeroShot(clip, tasks, config)
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
