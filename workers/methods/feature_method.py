"""What all methods on the features of the frozen towers share: nothing is plugged in, so features are computed once."""

from collections.abc import Sequence

from workers.clip.seam import NO_EDITS
from workers.methods.method import Method, TowerEdits


class FeatureMethod(Method):
    """A method that works on cached features; the loop hands it those instead of images."""

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """Nothing."""
        return TowerEdits(image=NO_EDITS, text=NO_EDITS, copies=(0,) * len(tasks))
