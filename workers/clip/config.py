"""Which frozen CLIP a job uses.  Torch-free, so the API can read it."""

from typing import Literal

from pydantic import Field

from workers.spec import Spec

Precision = Literal["fp32", "bf16", "fp16"]


class BackboneConfig(Spec):
    """A frozen open_clip backbone, by the names open_clip itself uses."""

    model: str = Field(min_length=1, max_length=500)
    """An open_clip model name (`ViT-B-16-quickgelu`), `hf-hub:ORG/NAME`, or `local-dir:PATH` (a folder with
    `open_clip_config.json` and weights), or `demo` for the tiny CLIP that ships with Cohort."""
    pretrained: str | None = None
    """The weights' tag (`openai`, `laion2b_s34b_b88k`).  Leave it out for `hf-hub:`, `local-dir:` and `demo`."""
    precision: Precision = "fp32"
    """The dtype in which the frozen weights are stored and the towers compute.  Trainables, logits and losses are
    fp32 always."""
