"""Does a work in small and measures it: the job's own code on its own device, with few images and few steps.

Nothing stays: images and results go to a temporary folder.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from workers.clip.frozen import FrozenCLIP
from workers.data.config import TaskConfig
from workers.data.dataset import TaskData, load_task
from workers.data.listing import PARTS
from workers.data.sources import list_task
from workers.data.splits import split_items
from workers.failures import DataError
from workers.launching.estimate_work import EstimateWork, Tried
from workers.launching.memory import forget_peak, memory_use
from workers.launching.work import PassWork, ProfileWork, ValidateWork, Work
from workers.training.results import LEARNED, TEXT_FEATURES, Progress
from workers.training.signatures import SIGNATURES
from workers.training.train import Stopped

Perform = Callable[[Work, Mapping[str, TaskData], Callable[[Progress], None]], Any]
"""Does a work with these data and this report; returns what it found."""


def try_out(
    work: EstimateWork, clip: FrozenCLIP, *, began_at: float, perform: Perform, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Performs `work.of` in small; returns a `Tried` as JSON-ready values.  `Stopped` after `should_stop` turned true.

    `began_at`: when the work began, before its backbone was loaded, in seconds since 1970.
    """

    def check() -> None:
        if should_stop():
            raise Stopped("stopped before all images were read")

    backbone = time.time() - began_at
    forget_peak(clip.device)
    with TemporaryDirectory(prefix="cohort-estimate-") as scratch:
        folder, first_at = Path(scratch), dict[int, float]()

        def report(progress: Progress) -> None:
            first_at.setdefault(progress.step, time.perf_counter())  # of several groups, the first tells

        read = {task.name: _read(task, work, clip, folder / "cache", check) for task in work.tasks}
        data = {name: found for name, (found, _) in read.items()}
        small = work.small(folder / "work")
        started = time.perf_counter()
        found = perform(small, data, report)
        ended = time.perf_counter()
        clock = _clock(first_at, started, ended, is_profile=isinstance(small, ProfileWork))
        tasks = ()
        if isinstance(small, ValidateWork):
            tasks = tuple(told | read[told["name"]][1] for told in found["tasks"])
        used = memory_use(clip.device)
        tried = Tried(
            began_at=began_at,
            backbone=backbone,
            tasks=tasks,
            memory=used.of,
            peak=used.peak,
            available=used.available,
            total=used.total,
            weights=clip.num_bytes,
            **clock,
            **_counts(small, data),
        )
    return tried.as_json()


def _read(
    task: TaskConfig, work: EstimateWork, clip: FrozenCLIP, cache_dir: Path, check: Callable[[], None]
) -> tuple[TaskData, dict[str, Any]]:
    """A sample of the task; for a validation also what its split has, and how long it took to list it and to read it,
    the images unknown and known.  DataError."""

    def load() -> TaskData:
        return load_task(task, clip.resize, roots=work.roots, cache_dir=cache_dir, sample=work.sample, check=check)

    check()
    try:
        if not isinstance(work.of, ValidateWork):
            return load(), {}
        times = [time.perf_counter()]
        parts = split_items(task, list_task(task, work.roots))
        times.append(time.perf_counter())
        data = load()
        times.append(time.perf_counter())
        load()
        times.append(time.perf_counter())
    except ValueError as error:
        raise DataError(str(error)) from error
    listing, reading, again = np.diff(times).tolist()
    told = {f"num_{part}": len(parts[part]) for part in PARTS}
    told["num_read"] = sum(len(getattr(data, part).keys) for part in PARTS) + data.num_unreadable
    seconds = {"list_seconds": listing, "read_seconds": max(0.0, reading - listing), "again_seconds": again}
    return data, told | seconds  # reading listed it once more


def _clock(first_at: Mapping[int, float], started: float, ended: float, *, is_profile: bool) -> dict[str, Any]:
    """Setup, steps and rest from the times at which steps were reported."""
    if not first_at:
        return {"setup": ended - started}
    times = [first_at[step] for step in sorted(first_at)]
    if len(times) == 1:  # nothing trains
        return {"setup": times[0] - started, "rest": ended - times[0]}
    steps = np.diff(times[1:])
    if is_profile:  # its last step is reported after the signatures
        typical, steps = (float(np.median(steps[:-1])), steps[:-1]) if len(steps) > 1 else (0.0, steps[:0])
        return {"setup": times[1] - started, "steps": tuple(steps.tolist()), "rest": ended - times[-2] - typical}
    return {"setup": times[1] - started, "steps": tuple(steps.tolist()), "rest": ended - times[-1]}


def _counts(small: Work, data: Mapping[str, TaskData]) -> dict[str, Any]:
    """How many images the times are about, and how large the files have become."""
    if isinstance(small, ProfileWork):
        with np.load(small.directory / SIGNATURES, allow_pickle=False) as arrays:
            rest_images, signature = int(arrays["counts"].sum()), arrays["gradients"].shape[-1]
        return _images(small, data) | {"rest_images": rest_images, "signature": signature}
    if isinstance(small, PassWork):
        scored = sum(
            len(getattr(data[task], part).keys) for u in small.groups for task in u.tasks for part in PARTS[1:]
        )
        sizes = {
            unit.id: sum((small.directories[unit.id] / name).stat().st_size for name in (LEARNED, TEXT_FEATURES))
            for unit in small.groups
        }
        return _images(small, data) | {"rest_images": scored, "sizes": sizes}
    return {}


def _images(small: ProfileWork | PassWork, data: Mapping[str, TaskData]) -> dict[str, int]:
    trained = [len(data[task].train.keys) for unit in small.groups if unit.method.trains for task in unit.tasks]
    return {
        "images": sum(min(count, small.training.batch_size) for count in trained),
        "train_images": sum(trained),
    }
