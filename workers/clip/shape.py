"""A backbone's sizes, from its config alone: no weights are loaded."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from workers.clip.config import BackboneShape
from workers.clip.frozen import create_untrained, refuse_misfit


def backbone_shape(model_name: str) -> BackboneShape:
    """Sizes of the backbone called `model_name` (as in `BackboneConfig.model`), built without memory on torch's meta
    device.

    Raises ValueError for a name that is unknown or a model that does not fit.
    """
    with _without_open_clips_warnings(), torch.device("meta"):
        model = create_untrained(model_name)
    owner = refuse_misfit(model, model_name)
    always = {"logit_scale", "logit_bias"}
    named = dict(model.named_parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    return BackboneShape(
        text_width=owner.transformer.width,
        image_width=model.visual.transformer.width,
        text_layers=len(owner.transformer.resblocks),
        image_layers=len(model.visual.transformer.resblocks),
        embed_dim=model.visual.output_dim,
        num_parameters=sum(parameter.numel() for parameter in named.values()),
        num_frozen_always=sum(parameter.numel() for name, parameter in named.items() if name in always),
        num_biases=sum(p.numel() for name, p in named.items() if name.endswith("bias") and name not in always),
        num_norm_weights=sum(norm.weight.numel() for norm in norms),
        num_norm_biases=sum(norm.bias.numel() for norm in norms),
        patch_size=model.visual.conv1.kernel_size[0],
    )


@contextmanager
def _without_open_clips_warnings() -> Iterator[None]:
    """open_clip warns, through the root logger, that these weights are random: they are not used."""
    root = logging.getLogger()

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addFilter(passes)  # heeded for what is said through the root logger itself only
    try:
        yield
    finally:
        root.removeFilter(passes)
