"""Which frozen CLIP a job uses.  Torch-free, so the API can read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from workers.data.roots import DataRoots
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

    @property
    def stays_the_same(self) -> bool:
        """Whether `state` tells when its weights are others; a repository's may change without a sign."""
        return not self.model.startswith("hf-hub:")

    @property
    def state(self) -> str:
        """What a folder of weights holds by names, sizes and times; empty for weights that have a name for good."""
        kind, _, place = self.model.partition(":")
        if kind != "local-dir":
            return ""
        files = sorted(Path(place).glob("*"))
        return repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])

    def check(self, roots: DataRoots) -> None:
        """Refuses (ValueError) a folder or a repository of weights that lies outside the roots."""
        kind, _, place = self.model.partition(":")
        if kind == "local-dir":
            roots.check(place)
        elif kind == "hf-hub":
            roots.check(f"hf://{place}")


@dataclass(frozen=True)
class BackboneShape:
    """The sizes of a backbone that parameter counts depend on."""

    text_width: int
    image_width: int
    text_layers: int
    image_layers: int
    embed_dim: int
    num_parameters: int
    """Of both towers and the temperature."""
    num_frozen_always: int
    """Temperature and bias of the logits, which no method trains."""
    num_biases: int
    """Numbers in all bias vectors of both towers, those of LayerNorms included."""
    num_norm_weights: int
    """Numbers in the weights of all LayerNorms of both towers."""
    num_norm_biases: int
    """Numbers in the biases of all LayerNorms of both towers."""
    patch_size: int

    @property
    def layers(self) -> int:
        """Layers that both towers have."""
        return min(self.text_layers, self.image_layers)
