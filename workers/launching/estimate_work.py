"""Another work in small: a few images of every task, a few steps, in a folder that goes away; and what that took.

Torch-free and picklable, like the works it is made from.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from workers.launching.work import PassWork, ProfileWork, ValidateWork, Work


@dataclass(frozen=True, kw_only=True)
class EstimateWork(Work):
    """Does what `of` would do, on a sample and for a few steps; its one unit stands for it.  Answers with `Tried`."""

    of: ValidateWork | ProfileWork | PassWork
    sample: Mapping[str, int]
    """Part (train, val, test) -> images of every task, at most."""
    num_steps: int
    """Optimiser steps, at least 4; the first is not counted."""

    def small(self, folder: Path) -> ValidateWork | ProfileWork | PassWork:
        """The work that is really done, with its files in `folder`."""
        match self.of:
            case ProfileWork():
                short = {"max_steps": self.num_steps, "snapshots": 1, "microbatches": 2}
                return replace(self.of, profile=self.of.profile.model_copy(update=short), directory=folder)
            case PassWork():
                training = self.of.training.model_copy(update={"max_steps": self.num_steps, "validations": 1})
                return replace(self.of, training=training, directories={u.id: folder / u.id for u in self.of.groups})
            case _:
                return self.of


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a work in small took.  Times are in seconds."""

    began_at: float
    """When the device worker got to it, since 1970."""
    backbone: float
    """Until the backbone was there."""
    setup: float
    """From data and backbone to the first step, and that step: methods are built, features are encoded."""
    steps: tuple[float, ...] = ()
    """Every further step."""
    rest: float = 0.0
    """What came after the last plain step: of a profile the signatures, of a pass its evaluation."""
    images: int = 0
    """Training images in a step."""
    rest_images: int = 0
    """Images that the rest looked at, each time it did."""
    train_images: int = 0
    """Training images of the sample, each unit's counted."""
    signature: int = 0
    """Numbers in one signature; 0 where none was taken."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Unit -> bytes of what it learned and what prediction needs beside that."""
    tasks: tuple[Mapping[str, Any], ...] = ()
    """Of a validation: what was found of every task, as `datasets.json` keeps it but with the numbers of images that
    its split has, and `num_read`, `list_seconds`, `read_seconds` and, with the images in the cache, `again_seconds`."""
    memory: Literal["process", "device"] = "process"
    """`process`: its resident memory; `device`: memory of the accelerator."""
    peak: int = 0
    """Bytes at most at a time."""
    available: int = 0
    """Bytes that there were for it, what it held itself included."""
    total: int = 0
    """Bytes that its device has or, without one, its machine."""
    weights: int = 0
    """Bytes of the backbone's weights."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "steps": tuple(value["steps"]), "tasks": tuple(value["tasks"])})
