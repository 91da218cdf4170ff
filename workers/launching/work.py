"""What a device worker can be asked to do, as plain values that travel to it.

Torch-free and picklable, so the driver can build them.  A work names data and folders; it holds no images, no weights
and no wish: whoever runs it passes `should_stop` and `report` beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workers.clip.config import BackboneConfig
from workers.data.config import TaskConfig
from workers.data.roots import DataRoots
from workers.launching.search_config import SearchConfig
from workers.methods.config import MethodConfig, MmAPConfig
from workers.storage_mark import StorageMark
from workers.training.config import ProfileConfig, TrainConfig

if TYPE_CHECKING:  # it brings SciPy, which device workers and the first stages of a job do not need
    from workers.launching.cost_model import CostModel

Kind = Literal["validate", "shared", "measure", "search", "plan", "all", "alone", "zero_shot", "trial", "estimate"]
"""What a group is for: stages of one unit each, the plan's groups, the three baselines, short trials of groups, and
works in small that only tell what they took."""


@dataclass(frozen=True)
class GroupUnit:
    """Tasks that train together, and what their training costs."""

    id: str
    kind: Kind
    tasks: tuple[str, ...]
    method: MethodConfig
    num_steps: int = 0
    """Optimiser steps; 0 where nothing is trained."""
    images_per_step: int = 1
    """Training images that the unit adds to one forward pass."""
    texts_per_step: int = 0
    """Class sentences of its tasks; of a retrieval task as many captions as images."""
    seconds_per_step: float | None = None
    """As learned from finished groups; None where none has finished."""

    @property
    def cost(self) -> float:
        """Seconds of the whole run, as far as they are known, else its training images; 1 where nothing is trained,
        so that evaluation is spread as well."""
        per_step = self.images_per_step if self.seconds_per_step is None else self.seconds_per_step
        return float(self.num_steps * per_step or 1)

    def priced(self, model: "CostModel | None") -> "GroupUnit":
        """The same unit, at the model's price.  Units are comparable if all or none of them have one."""
        if model is None or not self.num_steps:
            return self
        return replace(self, seconds_per_step=model.seconds(self.images_per_step, self.texts_per_step))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every kind of work has in common."""

    job: str
    attempt: int
    backbone: BackboneConfig
    tasks: tuple[TaskConfig, ...]
    groups: tuple[GroupUnit, ...]
    """The units whose progress this work reports; each has a named actor of its own under Ray."""
    roots: DataRoots
    cache_dir: Path
    num_threads: int = 1
    devices: int = 1
    """Devices that each group of this work spans; above 1 it runs as data-parallel ranks."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Task name -> fingerprint from validation; data that changed since are refused.  Empty: nothing to compare."""
    microbatches: int = 1
    """Parts that every training batch is taken in, so that a step needs less memory."""
    faults: str = ""
    """Faults that are made to happen in the process that does the work (`workers.faults`)."""
    faults_ledger: Path | None = None
    mark: StorageMark | None = None
    """What the machine that does the work must see where results go; None: nothing to look for."""


@dataclass(frozen=True, kw_only=True)
class ValidateWork(Work):
    """Reads every image of every task once and describes what was found; then builds what the job will train."""

    methods: tuple[MethodConfig, ...] = ()
    """Each is built once, so that one that does not fit the backbone or the tasks is refused before any training."""


@dataclass(frozen=True, kw_only=True)
class ProfileWork(Work):
    """Trains the shared prompt over all tasks and records every task's signatures under `directory`."""

    profile: ProfileConfig
    training: TrainConfig
    method: MmAPConfig
    directory: Path


@dataclass(frozen=True, kw_only=True)
class MeasureWork(ProfileWork):
    """Trains nothing: records the signatures of its tasks under `directory`, at the prompts that a profile stored."""

    stored: Path
    """The profile's signatures.npz."""


@dataclass(frozen=True, kw_only=True)
class PassWork(Work):
    """Trains several groups in one forward pass of one device worker; each group's files go to `directories[id]`."""

    training: TrainConfig
    directories: Mapping[str, Path]
    evaluate: Literal["test", "validation"] = "test"
    """`validation`: a trial, which leaves the scores of validation images and never looks at test images."""


@dataclass(frozen=True, kw_only=True)
class SearchWork(Work):
    """Trains the same groups under one setting after another and scores each on validation images.

    Its one unit stands for the search; every trial's record goes to `directory`.
    """

    search: SearchConfig
    scope: str
    """`job`, or the one group that is searched for: names the trials."""
    members: Mapping[str, tuple[str, ...]]
    """Group -> tasks: what a trial trains."""
    num_train: Mapping[str, int]
    """Task -> training images, for every task of the job."""
    method: MethodConfig
    training: TrainConfig
    directory: Path


def num_steps(training: TrainConfig, num_train: Mapping[str, int]) -> int:
    """Optimiser steps of every unit of a job: as many as `epochs` passes over its longest task take."""
    if training.max_steps is not None:
        return training.max_steps
    return training.epochs * max(-(-count // training.batch_size) for count in num_train.values())


def train_unit(
    id: str,
    kind: Kind,
    tasks: tuple[str, ...],
    method: MethodConfig,
    training: TrainConfig,
    num_train: Mapping[str, int],
    num_texts: Mapping[str, int] | None = None,
) -> GroupUnit:
    """A unit of a job with the steps, images and texts it takes; none where the method takes no steps.

    `num_texts` is every task's number of class sentences; a task without any has a caption per image.
    """
    if not method.trains:
        return GroupUnit(id, kind, tasks, method)
    images = {task: min(training.batch_size, num_train[task]) for task in tasks}
    texts = 0 if num_texts is None else sum(num_texts[task] or images[task] for task in tasks)
    return GroupUnit(id, kind, tasks, method, num_steps(training, num_train), sum(images.values()), texts)
