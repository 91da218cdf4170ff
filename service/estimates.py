"""Dry runs: asking for one, and reading what it says."""

import statistics
from collections.abc import Callable
from datetime import timedelta

from service.artifacts import JobFiles
from service.errors import ArtifactNotFound
from service.keeper import ESTIMATE_DAYS
from service.queue import wait_until_start
from service.records import Job
from service.settings import Settings
from service.store import Store
from service.wire_estimate import Estimate, Forecast

ARTIFACT = "estimate.json"
"""Where a dry run keeps its forecast."""


class Estimates:
    """What can be asked about dry runs."""

    def __init__(self, store: Store, settings: Settings, files: Callable[[str], JobFiles]) -> None:
        """`files` gives the files of a job by its id."""
        self._store = store
        self._settings = settings
        self._files = files

    def get(self, job_id: str) -> Estimate:
        """Where a dry run stands, and what it found.  ArtifactNotFound for a job that trains."""
        job = self._store.get_job(job_id)
        if job.purpose != "estimate":
            raise ArtifactNotFound(
                f"Job {job_id} is no estimate: it trains. POST its description to /v1/jobs/estimate for one."
            )
        files = self._files(job_id)
        is_there = job.is_finished and files.exists(ARTIFACT)
        return Estimate(
            id=job.id,
            name=job.name,
            state=job.state,
            reason=job.reason or (None if job.is_finished else job.waits_for),
            forecast=Forecast.model_validate_json(files.read_text(ARTIFACT)) if is_there else None,
            wait_seconds=self._wait(job) if is_there else None,
            created_at=job.created_at,
            finished_at=job.finished_at,
            expires_at=None if job.archived_at else (job.finished_at or job.created_at) + timedelta(days=ESTIMATE_DAYS),
        )

    def _wait(self, job: Job) -> float | None:
        """Seconds that the job would wait for its turn now, if every job takes as long as the latest; None where there
        are no latest."""
        now, slots = self._store.now(), self._settings.max_running_jobs
        running = self._store.active_jobs()
        startable = [other for other in self._store.startable_jobs(now) if not other.is_held_back]
        ahead = [other for other in startable if other.priority >= job.priority]
        if len(running) + len(ahead) < slots:
            return 0.0
        latest = self._store.typical_seconds()
        if not latest:
            return None
        elapsed = [now - other.started_at.timestamp() for other in running if other.started_at is not None]
        return wait_until_start(len(ahead) + 1, elapsed, slots, statistics.median(latest))
