"""Measures what jobs' files take, and removes what is kept no longer by the settings: jobs that were deleted or are too
old, and old lines of the audit log.

Everything it does can be done again: whoever takes over from one that died half-way ends what that one began.
"""

import logging

from service.artifacts import JobFiles
from service.errors import Conflict, JobNotFound
from service.settings import Settings
from service.store import Store

log = logging.getLogger(__name__)

ESTIMATE_DAYS = 1.0
"""Days for which a dry run is kept."""
_DAY = 86_400.0


class Keeper:
    """The coordinator asks it from time to time, under its lease."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def purge(self, now: float, limit: int = 20) -> list[str]:
        """Deletes jobs that are too old, and removes those whose time is over; the ids of the removed.

        At most `limit` of each, so that nobody waits long for its end.  A job whose files cannot be removed is left for
        the next time.
        """
        days = self._settings.finished_retention_days
        for job_id in () if days is None else self._store.old_jobs(now - days * _DAY, limit):
            try:
                self._store.delete(job_id, f"Deleted, as it was finished more than {days:g} day(s) ago.")
            except (Conflict, JobNotFound):  # somebody else was faster
                continue
        due = self._store.begin_purges(
            deleted_before=now - self._settings.retention_days * _DAY,
            estimated_before=now - ESTIMATE_DAYS * _DAY,
            limit=limit,
        )
        return [job_id for job_id in due if self._remove(job_id)]

    def forget(self, now: float) -> None:
        """Removes what the audit log keeps no longer."""
        if self._settings.audit_days is not None:
            self._store.forget_audit(now - self._settings.audit_days * _DAY)

    def measure(self, now: float) -> None:
        """Finds out what the files of some jobs take, of those first that were not measured for longest."""
        for job_id in self._store.jobs_to_measure(now):
            try:
                size = sum(info.size for info in JobFiles(self._settings.storage_place, job_id).list())
            except OSError as error:
                log.warning("the files of job %s could not be measured: %s", job_id, error)
                continue
            self._store.set_stored(job_id, size, now)

    def _remove(self, job_id: str) -> bool:
        try:
            JobFiles(self._settings.storage_place, job_id).remove()
        except OSError as error:
            log.warning("the files of the deleted job %s could not be removed: %s", job_id, error)
            return False
        self._store.end_purge(job_id)
        log.info("the deleted job %s is gone", job_id)
        return True
