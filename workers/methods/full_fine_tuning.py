"""Full fine-tuning: every tensor of both towers is trained, beginning at CLIP's own.  Temperature and bias of the
logits belong to no tower and stay frozen.

The trained copies are fp32 and are cast to the compute dtype at use, so that a step smaller than the compute dtype
resolves is not lost.
"""

from collections.abc import Iterable

from workers.methods.overrides import TrainedWeights


class FullFineTuning(TrainedWeights):
    """A set: both towers."""

    def trained(self) -> Iterable[str]:
        """All there is."""
        return self.frozen()
