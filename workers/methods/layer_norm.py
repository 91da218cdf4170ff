"""LayerNorm tuning: weights and biases of all LayerNorms of both towers, as VL-Adapter (Sung et al., CVPR 2022, arXiv
2112.06825) unfreezes them beside its adapters; here they are all that is trained.

    y = w * (x - mean(x)) / std(x) + b        w and b trained, beginning at CLIP's own
"""

from collections.abc import Iterable

from workers.methods.overrides import TrainedWeights


class LayerNormTuning(TrainedWeights):
    """A set: `weight` and `bias` of every LayerNorm, those around the towers included."""

    def trained(self) -> Iterable[str]:
        """The LayerNorms' tensors, in the towers' order."""
        norms = self.layer_norms()
        return [name for name in self.frozen() if name in norms]
