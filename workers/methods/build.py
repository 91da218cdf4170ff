"""From a method's config to the method."""

from collections.abc import Sequence

from workers.clip.frozen import FrozenCLIP
from workers.methods.adapter import Adapter
from workers.methods.bitfit import BitFit
from workers.methods.cavl_adapter import CAVLAdapter
from workers.methods.clip_adapter import CLIPAdapter
from workers.methods.compacter import Compacter
from workers.methods.config import (
    AdapterConfig,
    BitFitConfig,
    CAVLAdapterConfig,
    CLIPAdapterConfig,
    CompacterConfig,
    CoOpConfig,
    FullFineTuningConfig,
    HyperformerConfig,
    LayerNormConfig,
    LinearProbeConfig,
    LoRAConfig,
    MaPLeConfig,
    MethodConfig,
    MmAPConfig,
    ShortcutConfig,
    TaskResConfig,
    TipAdapterConfig,
    TipAdapterFConfig,
    VisionLanguagePromptsConfig,
    VPTConfig,
    ZeroShotConfig,
)
from workers.methods.coop import CoOp
from workers.methods.full_fine_tuning import FullFineTuning
from workers.methods.hyperformer import Hyperformer
from workers.methods.layer_norm import LayerNormTuning
from workers.methods.linear_probe import LinearProbe
from workers.methods.lora import LoRA
from workers.methods.maple import MaPLe
from workers.methods.method import Method, TaskInfo
from workers.methods.mmap import MmAP
from workers.methods.shortcut import Shortcut
from workers.methods.taskres import TaskRes
from workers.methods.tip_adapter import TipAdapter
from workers.methods.vision_language_prompts import VisionLanguagePrompts
from workers.methods.vpt import VPT
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
        case CoOpConfig():
            return CoOp(clip, tasks, config, seed=seed)
        case VPTConfig():
            return VPT(clip, tasks, config, seed=seed)
        case VisionLanguagePromptsConfig():
            return VisionLanguagePrompts(clip, tasks, config, seed=seed)
        case MaPLeConfig():
            return MaPLe(clip, tasks, config, seed=seed)
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
        case AdapterConfig():
            return Adapter(clip, tasks, config, seed=seed)
        case HyperformerConfig():
            return Hyperformer(clip, tasks, config, seed=seed)
        case CompacterConfig():
            return Compacter(clip, tasks, config, seed=seed)
        case CAVLAdapterConfig():
            return CAVLAdapter(clip, tasks, config, seed=seed)
