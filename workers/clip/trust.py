"""What a backbone's own description may ask for.

A folder or a repository describes its model in `open_clip_config.json`, which open_clip hands on: a tower may be any
model of another library, loaded from anywhere, and a tokeniser may bring code of its own.  Whoever wrote the file may
be a stranger; so only towers of open_clip's own are built, and no tokeniser is given more than how to clean a text.
Weights are numbers in safetensors, never a pickle.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FOREIGN_TOWERS = {"text_cfg": "hf_model_name", "vision_cfg": "timm_model_name"}
_TOKENIZER_OPTIONS = frozenset({"clean", "strip_sep_token", "language"})


def refuse_pickle(name: str, files: Sequence[str]) -> None:
    """Refuses (ValueError) files of which open_clip would load a pickle."""
    names = [Path(file).name for file in files]
    pickled = [each for each in names if Path(each).suffix in _PICKLED]
    if pickled and not set(_PREFERRED) & set(names):
        raise ValueError(
            f"backbone {name!r}: its weights {pickled[0]!r:.80} are a pickle, which could run code. Convert them to "
            f"{_PREFERRED[0]}."
        )


def refuse_foreign_parts(name: str, description: dict[str, Any] | None) -> None:
    """Refuses (ValueError) a model description (`model_cfg`) that loads models from elsewhere, or code."""
    description = description or {}
    for tower, key in _FOREIGN_TOWERS.items():
        part = description.get(tower)
        if not isinstance(part, dict):
            raise ValueError(f"backbone {name!r}: its open_clip_config.json has no {tower}. Save it with open_clip.")
        if key in part:
            raise ValueError(
                f"backbone {name!r}: its open_clip_config.json loads another model ({tower}.{key}={part[key]!r:.80}). "
                "Use a model whose towers are open_clip's own."
            )
    options = description["text_cfg"].get("tokenizer_kwargs", {})
    if not isinstance(options, dict) or not _TOKENIZER_OPTIONS.issuperset(options):
        raise ValueError(
            f"backbone {name!r}: its open_clip_config.json sets tokenizer_kwargs={options!r:.120}; only "
            f"{', '.join(sorted(_TOKENIZER_OPTIONS))} are taken. Remove the others."
        )
