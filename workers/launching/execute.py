"""Does a work: loads its data and the frozen CLIP and calls the training room.  Every launcher ends up here.

Runs wherever it is called: in a thread, an actor, a rank of a data-parallel run.  It knows nothing of Ray or of jobs.
"""

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import torch

from workers.clip.frozen import FrozenCLIP, load_clip
from workers.data.dataset import TaskData, load_task
from workers.failures import DataError, FailureClass, classify, is_full
from workers.faults import Crash
from workers.launching.board import Outcome
from workers.launching.estimate import try_out
from workers.launching.estimate_work import EstimateWork
from workers.launching.memory import forget_peak, memory_use
from workers.launching.work import MeasureWork, PassWork, ProfileWork, ValidateWork, Work
from workers.training.distributed import Ranks
from workers.training.results import Progress
from workers.training.signatures import measure_at, profile
from workers.training.train import GroupWork, Stopped, check_method, train

ClipCache = dict[tuple[str, str, str], FrozenCLIP]
"""One frozen backbone per (backbone config, state of its files, device) of a process."""


def execute(
    work: Work,
    *,
    clip_cache: ClipCache,
    device: str,
    should_stop: Callable[[], bool],
    report: Callable[[Progress], None],
    log: Callable[[str], None],
    ranks: Ranks | None = None,
) -> Any:
    """Runs a work to its end and returns what it found as JSON-ready values.

    ValueError where the settings are at fault, DataError where the data are, StorageMissing where this machine does not
    see where results go; `Stopped` once everything is checkpointed after `should_stop()` turned true.  `should_stop` is
    asked again and again while the work is alive.
    """
    if work.mark is not None:
        work.mark.check()
    torch.set_num_threads(work.num_threads)
    began_at = time.time()
    clip = _clip(work, clip_cache, device, log)
    if isinstance(work, EstimateWork):

        def perform(small: Work, sample: Mapping[str, TaskData], report: Callable[[Progress], None]) -> Any:
            return _perform(small, clip, sample, should_stop=should_stop, report=report, log=log, ranks=None)

        return try_out(work, clip, began_at=began_at, perform=perform, should_stop=should_stop)

    def check() -> None:
        if should_stop():
            raise Stopped("stopped before all images were read")

    data: dict[str, TaskData] = {}
    for task in work.tasks:
        check()
        try:
            data[task.name] = load_task(task, clip.resize, roots=work.roots, cache_dir=work.cache_dir, check=check)
        except ValueError as error:
            raise DataError(str(error)) from error
        _refuse_changed(data[task.name], work.fingerprints.get(task.name))
    forget_peak(clip.device)
    found = _perform(work, clip, data, should_stop=should_stop, report=report, log=log, ranks=ranks)
    return found | {"memory": _memory(clip)}


def _memory(clip: FrozenCLIP) -> dict[str, int]:
    """What the work took; who knows its images and texts makes a `Footprint` of it."""
    used = memory_use(clip.device)
    return {"weights": clip.num_bytes, "peak": used.peak, "available": used.available, "total": used.total}


def _perform(
    work: Work,
    clip: FrozenCLIP,
    data: Mapping[str, TaskData],
    *,
    should_stop: Callable[[], bool],
    report: Callable[[Progress], None],
    log: Callable[[str], None],
    ranks: Ranks | None,
) -> Any:
    """Runs a work over its data."""
    match work:
        case ValidateWork():
            for found in data.values():
                log(f"{found.name}: {_sizes(found)}")
            for method in work.methods:
                check_method(clip, method, data)
            return {"tasks": [describe(found) for found in data.values()]}
        case MeasureWork():
            path = measure_at(
                clip,
                data,
                work.stored,
                work.profile,
                work.training,
                work.method,
                directory=work.directory,
                should_stop=should_stop,
                log=log,
                parts=work.microbatches,
            )
            return {"signatures": str(path)}
        case ProfileWork():
            path = profile(
                clip,
                data,
                work.profile,
                work.training,
                work.method,
                directory=work.directory,
                should_stop=should_stop,
                report=report,
                parts=work.microbatches,
            )
            return {"signatures": str(path)}
        case PassWork():
            groups = [GroupWork(u.id, u.tasks, u.method, work.directories[u.id]) for u in work.groups]
            results = train(
                clip,
                groups,
                data,
                work.training,
                should_stop=should_stop,
                report=report,
                ranks=ranks,
                evaluate=work.evaluate,
                microbatches=work.microbatches,
            )
            return {"groups": sorted(results)}
        case _:
            assert_never(work)  # pyright: ignore[reportArgumentType]


def attempt(run: Callable[[], Any]) -> Outcome:
    """Calls `run` and turns whatever happens into an outcome that can be sent anywhere."""
    try:
        return Outcome("done", value=run())
    except Stopped as stopped:
        return Outcome("stopped", error=str(stopped))
    except Exception as error:
        said = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        return Outcome(
            "failed", error=said, fault=classify(error), hits_all=is_full(error), traceback=traceback.format_exc()
        )
    except Crash as crash:
        return Outcome("failed", error=f"killed at {crash}", fault=FailureClass.INFRASTRUCTURE)


def give_back_memory(device: str) -> None:
    """Lets others on the device have what no tensor needs any more."""
    if device == "cuda":
        torch.cuda.empty_cache()


def describe(task: TaskData) -> dict[str, Any]:
    """What validation found of a task, as `datasets.json` keeps it; a retrieval task has captions and no classes."""
    return {
        "name": task.name,
        "kind": task.kind,
        "class_names": list(task.class_names),
        "template": task.template,
        "num_train": len(task.train.keys),
        "num_val": len(task.val.keys),
        "num_test": len(task.test.keys),
        "num_captions": _num_captions(task),
        "num_unreadable": task.num_unreadable,
        "unreadable": list(task.unreadable),
        "fingerprint": task.fingerprint,
    }


def _clip(work: Work, clip_cache: ClipCache, device: str, log: Callable[[str], None]) -> FrozenCLIP:
    work.backbone.check(work.roots)  # one that is there already was loaded under the roots of its time
    key = (work.backbone.model_dump_json(), work.backbone.state, device)
    if key not in clip_cache:
        clip_cache.clear()  # one backbone in memory: a worker serves one job at a time, and a job has one backbone
        clip_cache[key] = load_clip(work.backbone, device=device, roots=work.roots)
        log(f"loaded {work.backbone.model} ({work.backbone.precision}) on {device}")
    return clip_cache[key]


def _refuse_changed(found: TaskData, expected: str | None) -> None:
    if expected is not None and found.fingerprint != expected:
        raise DataError(
            f"Task {found.name!r}: its images, labels or split changed since the job was validated (fingerprint "
            f"{found.fingerprint[:12]}, expected {expected[:12]}). Restore the data or post a new job."
        )


def _sizes(task: TaskData) -> str:
    images = f"{len(task.train.keys)} train, {len(task.val.keys)} val, {len(task.test.keys)} test images"
    texts = f"{_num_captions(task)} captions" if task.kind == "retrieval" else f"{len(task.class_names)} classes"
    return f"{texts}, {images}, {task.num_unreadable} unreadable"


def _num_captions(task: TaskData) -> int:
    return sum(len(captions) for part in (task.train, task.val, task.test) for captions in part.captions)
