"""The trials of a search as they are kept: one JSON file a trial, read again by the attempt that goes on.

Torch-free and without Ray.  A trial's numbers come from validation images alone.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from workers.launching.packing import MAX_IMAGES_PER_STEP, pack
from workers.launching.search_config import Value
from workers.launching.search_space import apply_setting
from workers.launching.work import PassWork, SearchWork, num_steps, train_unit
from workers.seals import Damaged, read_sealed, write_sealed
from workers.training.results import Progress
from workers.training.schedule import warmup_steps

FOLDER = "trials"
SCRATCH = "scratch"
"""Checkpoints of trials under way, below the search's folder; gone when their trial has ended."""


@dataclass(frozen=True)
class Trial:
    """One setting and what became of it."""

    number: int
    setting: dict[str, Value]
    status: Literal["running", "done", "stopped", "failed"] = "running"
    """`running` in a file: interrupted, and to be gone on with.  `stopped`: by the scheduler, or as time was up."""
    reason: str = ""
    """Why it was stopped or failed."""
    val_score: float | None = None
    """Mean over the tasks at the last validation."""
    val_loss: float | None = None
    step: int = 0
    num_steps: int = 0
    seconds: float = 0.0
    ended_at: float = 0.0
    """Seconds of the search until then, all attempts together."""
    validations: list[dict[str, float]] = field(default_factory=list)
    """{"step", "val_score", "val_loss"} in order."""

    @property
    def has_ended(self) -> bool:
        return self.status != "running"

    def value(self, metric: str) -> float | None:
        """The metric that is searched for; None before the first validation."""
        return self.val_score if metric == "val_score" else self.val_loss

    def heard(self, report: Mapping[str, Any]) -> "Trial":
        """With one more validation."""
        point = {name: report[name] for name in ("step", "val_score", "val_loss")}
        fields = {**point, "num_steps": report["num_steps"], "seconds": report["seconds"]}
        return replace(self, **fields, validations=[*self.validations, point])

    def write(self, directory: Path) -> None:
        write_sealed(directory / FOLDER / f"{self.number}.json", asdict(self), "trial")


def read_trials(directory: Path) -> list[Trial]:
    """Every trial that was ever started, by number; one whose record is damaged was not."""
    found = []
    for path in (directory / FOLDER).glob("*.json"):
        with suppress(Damaged):
            found.append(Trial(**read_sealed(path)))
    return sorted(found, key=lambda trial: trial.number)


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Best first: trials that came to their end, then those that were stopped, then those without a value.

    Between equal scores the lower loss decides, then the lower number.
    """

    def key(trial: Trial) -> tuple:
        value = trial.value(metric)
        order = {"done": 0, "stopped": 1}.get(trial.status, 2)
        if value is None or order == 2:
            return 2, 0.0, 0.0, trial.number
        return order, value if metric == "val_loss" else -value, trial.val_loss or 0.0, trial.number

    return sorted(trials, key=key)


def best_of(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The trial whose setting wins; None where none was scored."""
    first = next(iter(ranked(trials, metric)), None)
    is_scored = first is not None and first.status in ("done", "stopped") and first.value(metric) is not None
    return first if is_scored else None


def words(setting: Mapping[str, Value]) -> str:
    """A setting for a person to read."""
    return ", ".join(
        f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={value}" for path, value in setting.items()
    )


def trial_passes(work: SearchWork, number: int, setting: Mapping[str, Value]) -> list[PassWork]:
    """What a trial trains: the groups under its setting, one pass after another.  ValueError for no valid setting."""
    method, training = apply_setting(setting, work.method, work.training)
    units = [
        train_unit(group, "search", tasks, method, training, work.num_train) for group, tasks in work.members.items()
    ]
    if steps := max(unit.num_steps for unit in units):
        training = training.model_copy(update={"max_steps": steps})
    scratch = work.directory / SCRATCH / str(number)
    return [
        PassWork(
            job=work.job,
            attempt=work.attempt,
            backbone=work.backbone,
            tasks=tuple(task for task in work.tasks if any(task.name in unit.tasks for unit in members)),
            groups=tuple(members),
            roots=work.roots,
            cache_dir=work.cache_dir,
            num_threads=work.num_threads,
            mark=work.mark,
            fingerprints=work.fingerprints,
            training=training,
            directories={unit.id: scratch / unit.id for unit in members},
            evaluate="validation",
        )
        for members in pack(units, 1, MAX_IMAGES_PER_STEP)
    ]


def first_telling_validation(work: SearchWork) -> int:
    """The first validation after the warm-up, counted from 1: before it hardly anything is learned, and a trial that
    were ended there would be ended by its start."""
    training = work.training
    steps = num_steps(training, work.num_train)
    longest = max(work.num_train[task] for tasks in work.members.values() for task in tasks)
    warm = warmup_steps(training, num_steps=steps, steps_per_epoch=-(-longest // training.batch_size))
    return min(warm * training.validations // steps + 1, training.validations)


class Validations:
    """Puts the groups' own validations together: one report whenever every group of the trial has a new one.

    The training loop tells what a validation found with the first step after it, and once more at the last step.
    """

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = set(groups)
        self._heard: dict[str, Progress] = {}
        self._validated_at: dict[str, int] = {}
        self._news: set[str] = set()
        self._told_step = -1

    def hear(self, progress: Progress) -> dict[str, float] | None:
        """Means over all tasks and the step that they belong to, or None where there is nothing new yet.

        ValueError for a mean that is no number: it could neither be compared nor be kept.
        """
        before = self._heard.get(progress.group)
        self._heard[progress.group] = progress
        same = before is not None and (progress.scores, progress.val_losses) == (before.scores, before.val_losses)
        if same or not progress.scores:
            return None
        is_last = before is None or before.step == progress.step
        self._validated_at[progress.group] = progress.step if is_last else progress.step - 1
        self._news.add(progress.group)
        return self._report() if self._news == self._groups else None

    def last(self) -> dict[str, float] | None:
        """The report of a trial's end, where none told it: a validation that finds nothing changed is no news."""
        self._validated_at = {group: progress.step for group, progress in self._heard.items()}
        step = max(self._validated_at.values())
        return self._report() if self._told_step < step else None

    def _report(self) -> dict[str, float]:
        self._news = set()
        self._told_step = max(self._validated_at.values())
        every = self._heard.values()
        told = {
            "val_score": fmean(value for progress in every for value in progress.scores.values()),
            "val_loss": fmean(value for progress in every for value in progress.val_losses.values()),
        }
        if not all(map(math.isfinite, told.values())):
            raise ValueError(f"validation gives {told} at step {self._told_step}. Lower training.lr.")
        return told | {"step": self._told_step, "num_steps": max(progress.num_steps for progress in every)}
