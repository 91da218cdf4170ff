"""From a method's config to the method."""

from collections.abc import Sequence

from workers.clip.frozen import FrozenCLIP
from workers.methods.config import MethodConfig, MmAPConfig, ZeroShotConfig
from workers.methods.method import Method, TaskInfo
from workers.methods.mmap import MmAP
from workers.methods.zero_shot import ZeroShot


def build_method(config: MethodConfig, clip: FrozenCLIP, tasks: Sequence[TaskInfo], *, seed: int) -> Method:
    """A fresh method for one group.  The same seed gives the same bytes, whatever else is built."""
    match config:
        case ZeroShotConfig():
            return ZeroShot(clip, tasks, config)
        case MmAPConfig():
            return MmAP(clip, tasks, config, seed=seed)
