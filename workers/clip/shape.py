"""A backbone's sizes, from its config alone: no weights are loaded."""

import logging
from dataclasses import dataclass

import torch

from workers.clip.frozen import create_untrained, refuse_misfit


@dataclass(frozen=True)
class BackboneShape:
    """What parameter counts depend on."""

    text_width: int
    image_width: int
    text_layers: int
    image_layers: int
    embed_dim: int
    num_parameters: int


def backbone_shape(model_name: str) -> BackboneShape:
    """Sizes of the backbone called `model_name` (as in `BackboneConfig.model`), built without memory on torch's meta
    device.

    Raises ValueError for a name that is unknown or a model that does not fit.
    """
    logging.getLogger("root").setLevel(
        logging.ERROR
    )  # open_clip warns that these weights are random: they are not used
    with torch.device("meta"):
        model = create_untrained(model_name)
    owner = refuse_misfit(model, model_name)
    return BackboneShape(
        text_width=owner.transformer.width,
        image_width=model.visual.transformer.width,
        text_layers=len(owner.transformer.resblocks),
        image_layers=len(model.visual.transformer.resblocks),
        embed_dim=model.visual.output_dim,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
