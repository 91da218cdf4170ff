"""Makes `import torchvision` (which open_clip needs for its transforms) work beside any torch build.

torchvision registers the operators `nms` and `qnms` from its native library and, at import, attaches Python
implementations to them.  A torchvision built for CUDA cannot load that library beside a CPU torch, so the operators
are missing and the import fails with "operator torchvision::nms does not exist".  Cohort never calls either operator:
declaring their schemas is enough.  Where the native library loads, declaring them again would be an error, so it is
tried first.  `workers.clip` imports this module before open_clip.
"""

import importlib.util
from pathlib import Path

import torch

NMS = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
QNMS = "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def ensure_torchvision_ops() -> bool:
    """Loads torchvision's native library, or declares the two operator schemas if that fails.

    Returns True if the native library is there.  Safe to call more than once.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed. Run `make setup`.")
    library = next(iter(sorted(Path(spec.origin).parent.glob("_C*.so"))), None)
    try:
        if library is None:
            raise OSError("this torchvision ships no native library")
        torch.ops.load_library(str(library))
    except OSError:
        for schema in (NMS, QNMS):
            if not _is_declared(schema.split("(")[0]):
                torch.library.define(f"torchvision::{schema.split('(')[0]}", schema[schema.index("(") :])
        return False
    return True


def _is_declared(name: str) -> bool:
    return hasattr(torch.ops.torchvision, name)
