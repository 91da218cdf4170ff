"""BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199, section 3): all biases of both towers are trained.

    y = W x + b        W frozen, b trained, beginning at CLIP's own

The middle third of an attention's packed bias, that of the keys, is trained in name only: q . (k + b) moves all scores
of a query by the same q . b, which the softmax does not see.
"""

from collections.abc import Iterable, Sequence

from workers.clip.frozen import FrozenCLIP
from workers.methods.method import TaskInfo
from workers.methods.overrides import TrainedWeights
from workers.methods.weight_config import BitFitConfig


class BitFit(TrainedWeights):
    """A set: every `bias` of both towers, or every one outside the LayerNorms."""

    def __init__(self, clip: FrozenCLIP, tasks: Sequence[TaskInfo], config: BitFitConfig, *, seed: int):
        self._bitfit = config
        super().__init__(clip, tasks, config, seed=seed)

    def trained(self) -> Iterable[str]:
        """The biases."""
        left_out = set() if self._bitfit.layer_norms else self.layer_norms()
        return [name for name in self.frozen() if name.endswith("bias") and name not in left_out]
