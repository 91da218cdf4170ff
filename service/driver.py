"""The driver of one attempt: `python -m service.driver JOB ATTEMPT`.

It runs as a Ray Job, walks the stages of a job in order and ends.  Every stage writes its artifact before the state
moves on, so a new attempt goes on at the first stage whose artifact is missing.
"""

import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from service import logs
from service.artifacts import JobFiles
from service.errors import DatabaseUnavailable
from service.records import Job
from service.settings import Settings
from service.stages.profile import announce, profile
from service.stages.retried import take_over_retried
from service.stages.run import Interrupted, JobRun, StageFailed, StaleAttempt
from service.stages.validate import validate
from service.states import JobState
from service.store import Store
from workers import faults
from workers.failures import FailureClass, classify
from workers.launching.launcher import Launcher
from workers.launching.ray_launcher import RayLauncher
from workers.launching.ray_warm import Warmth
from workers.storage_mark import require_mark

log = logging.getLogger("service.driver")

DATABASE_PATIENCE_SECONDS = 180.0
"""How long a driver waits for a database that is away before its attempt dies."""

PASSING = (FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTION)
"""Classes that are no fault of the job's, nor of ours."""


def run_job(
    job_id: str,
    attempt: int,
    *,
    store: Store,
    files: JobFiles,
    launcher: Launcher,
    settings: Settings,
    terminated: Callable[[], bool] = lambda: False,
) -> JobState:
    """Runs one attempt to its end and returns the state the job is in then.

    Raises what will pass, such as a database that does not answer: the job stays with its attempt until the
    coordinator finds that dead and starts another.
    """
    job = store.get_job(job_id)
    run = JobRun(job_id, attempt, job.spec, store, files, launcher, settings, terminated)
    faults.point("driver.begins")
    failure: FailureClass | None = None
    try:
        if not job.stage_times:  # refused now, not after hours of profiling; one that has begun waits for machines
            launcher.capacity(job.spec.resources.devices_per_group)
        if job.spec.search is not None:
            launcher.check_search(job.spec.search)
        files.remove_drafts()
        take_over_retried(run)
        to, reason = _stage("estimate")(run) if job.purpose == "estimate" else _walk(run)
    except Interrupted as wish:
        to, reason, failure = wish.to, wish.reason, wish.failure
    except StaleAttempt as stale:
        log.warning("%s", stale)
        return store.get_job(job_id).state
    except DatabaseUnavailable:  # nothing can be written down: the attempt dies, and the next goes on where it was
        raise
    except StageFailed as failed:
        files.append_log("driver", [failed.reason, *failed.detail.splitlines()])
        to, reason, failure = JobState.FAILED, failed.reason, failed.failure
    except Exception as error:
        failure = classify(error)
        if failure in PASSING:
            raise  # the attempt dies of it, and the job has more of them
        log.exception("attempt %d of %s failed", attempt, job_id)
        files.append_log("driver", traceback.format_exc().splitlines())
        to, reason = JobState.FAILED, str(error)
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {error}. The log `driver.log` has the details."
    faults.point("driver.ends")
    store.move(job_id, to, attempt=attempt, reason=reason, failure=failure)
    faults.point("driver.ended")
    return store.get_job(job_id).state


def _walk(run: JobRun) -> tuple[JobState, str | None]:
    """Every stage in its turn; the state that the job ends in, and why."""
    announce(run)
    validate(run)
    profile(run)
    _stage("group")(run)
    _stage("search")(run)
    return _stage("publish")(run, _stage("train")(run))


def _stage(name: str) -> Callable[..., Any]:
    """A stage that brings SciPy and scikit-learn: loaded in its turn, so that the first step does not wait for them."""
    return getattr(importlib.import_module(f"service.stages.{name}"), name)


def main(job_id: str, attempt: int) -> int:
    """Runs an attempt on Ray.  0 unless this process itself is at fault: how the job ended is told by its state."""
    settings = Settings.load()
    logs.configure(sys.stdout, settings, job=job_id, attempt=attempt)
    faults.arm(settings.faults, settings.faults_ledger)
    require_mark(settings.storage_place)
    store = Store(settings.database_url, patience=DATABASE_PATIENCE_SECONDS)
    job = store.get_job(job_id)
    if job.attempt != attempt:
        log.warning("attempt %d of %s is over: attempt %d owns the job", attempt, job_id, job.attempt)
        return 0
    try:
        launcher = RayLauncher(
            device=job.spec.resources.device,
            max_device_workers=settings.max_device_workers,
            gpus_per_worker=settings.gpus_per_worker,
            max_gpus=settings.max_gpus or 0,
            devices=job.devices,
            warmth=_warmth(job, settings),
        )
    except ValueError as error:  # what the job asks for is not there; no further attempt would find it
        if job.stage_times:
            raise  # it was there when the job began: a machine is gone, and may come back
        store.move(job_id, JobState.FAILED, attempt=attempt, reason=str(error), failure=FailureClass.USER)
        return 0
    terminations: list[int] = []
    # after Ray's start, which puts handlers of its own in place: of logs, and one that ends where ours lets the poll
    # loop checkpoint
    logs.configure(sys.stdout, settings, job=job_id, attempt=attempt)
    signal.signal(signal.SIGTERM, lambda number, frame: terminations.append(number))
    try:
        state = run_job(
            job_id,
            attempt,
            store=store,
            files=JobFiles(settings.storage_place, job_id),
            launcher=launcher,
            settings=settings,
            terminated=lambda: bool(terminations),
        )
    finally:
        launcher.close()
    log.info("%s is %s", job_id, state)
    return 0


def _warmth(job: Job, settings: Settings) -> Warmth | None:
    """For whom its device workers are kept; an estimate has its own, since it measures processes from their start."""
    if job.purpose == "estimate" or not settings.warm_seconds:
        return None
    return Warmth(settings.service_id, job.tenant, job.spec.backbone, settings.warm_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
