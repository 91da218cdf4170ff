"""What all methods on the features of the frozen towers share: nothing is plugged in, so features are computed once."""

from collections.abc import Sequence

from workers.clip.seam import NO_EDITS
from workers.methods.method import Method, TowerEdits


class FeatureMethod(Method):
    """A method that works on cached features; the loop hands it those instead of images."""

    def edits(self, tasks: Sequence[str]) -> TowerEdits:
        """Nothing."""
        return TowerEdits(image=NO_EDITS, text=NO_EDITS, copies=(0,) * len(tasks))

    def templates(self, task: str) -> tuple[str, ...]:
        """The config's, averaged; the task's own if there are none, and for captions."""
        given: tuple[str, ...] = getattr(self.config, "templates", ())
        return given if given and self.infos[task].kind != "retrieval" else super().templates(task)
