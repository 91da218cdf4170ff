"""CLIP models from nothing: build one from a config dict, save it as an ordinary open_clip folder, tokenize for it.

A folder that `save_clip` writes is loaded by open_clip itself under the name `local-dir:FOLDER`, weights, tokenizer and
preprocessing alike, so whatever is made here is an ordinary backbone to everything else.  Knows nothing of training.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from workers.clip.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()

import open_clip  # noqa: E402 - its transforms need torchvision's operators first

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


def new_clip(config: dict[str, Any]) -> torch.nn.Module:
    """A randomly initialised open_clip model (fp32).  `config` is what open_clip writes into open_clip_config.json."""
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in config.get("model_cfg", {}):
            raise ValueError(
                f"config has no model_cfg.{key}; expected open_clip's {{'model_cfg': ..., 'preprocess_cfg': ...}}."
            )
    return open_clip.CLIP(**config["model_cfg"])


def save_clip(
    model: torch.nn.Module,
    config: dict[str, Any],
    folder: Path,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes config and weights into `folder`, creating it.  Weights are stored as `dtype`; open_clip loads them
    into fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def load_scratch_clip(folder: Path) -> torch.nn.Module:
    """The model of a folder that `save_clip` wrote, through open_clip's own `local-dir:` path, in eval mode."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval()


def new_tokenizer(context_length: int) -> open_clip.SimpleTokenizer:
    """open_clip's standard tokenizer (49408 tokens), cut or padded to `context_length`: texts -> int64 [texts,
    length]."""
    return open_clip.SimpleTokenizer(context_length=context_length)
