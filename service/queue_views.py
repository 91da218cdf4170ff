"""The queue as the outside sees it: each waiting job's place, what it waits for, and about when it starts."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from service.queue import OF_RAY, line_up, wait_until_start
from service.records import Job
from service.settings import Settings
from service.states import WAITING, Desired, JobState
from service.store import Store
from service.wire_queue import QueuePlace

LOOK_SECONDS = 1.0
"""For so long a look at the whole queue is taken for the present."""


@dataclass(frozen=True)
class _Look:
    until: float
    now: float
    """Seconds since 1970."""
    positions: dict[str, int]
    """Job -> its place in the whole line, from 1, without those that their tenant's quota holds back."""
    elapsed: list[float]
    """Seconds that the running jobs have run so far."""
    typical: float | None
    """Seconds that a job runs."""


class QueueViews:
    """What can be asked about places in the queue."""

    def __init__(self, store: Store, settings: Settings, steady: Callable[[], float] = time.monotonic) -> None:
        """`steady` gives seconds from any moment on."""
        self._store = store
        self._settings = settings
        self._steady = steady
        self._look: _Look | None = None
        self._lock = threading.Lock()

    def place(self, job: Job, *, approved: bool) -> QueuePlace | None:
        """Where a job stands; None for one that does not wait to start.  `approved`: one of its plans is."""
        if job.state not in WAITING or job.desired != Desired.RUN:
            return None
        if job.state == JobState.AWAITING_APPROVAL and not approved:
            return QueuePlace(waits_for="Approval of its plan.", position=None, starts_at=None)
        look = self._at_present()
        if job.state == JobState.QUEUED and job.not_before.timestamp() > look.now:
            return QueuePlace(waits_for="A pause after a failure.", position=None, starts_at=job.not_before)
        position = look.positions.get(job.id)
        starts_at = None
        if position is not None and look.typical is not None and not (job.waits_for or "").startswith(OF_RAY):
            seconds = wait_until_start(position, look.elapsed, self._settings.max_running_jobs, look.typical)
            starts_at = datetime.fromtimestamp(round(look.now + seconds), UTC)
        return QueuePlace(waits_for=job.waits_for or "Its turn.", position=position, starts_at=starts_at)

    def _at_present(self) -> _Look:
        with self._lock:
            if self._look is None or self._steady() >= self._look.until:
                now = self._store.now()
                running = self._store.active_jobs()
                startable = [job for job in self._store.startable_jobs(now) if not job.is_held_back]
                line = line_up(startable, Counter(job.tenant for job in running))
                latest = self._store.typical_seconds()
                self._look = _Look(
                    until=self._steady() + LOOK_SECONDS,
                    now=now,
                    positions={job.id: position for position, job in enumerate(line, start=1)},
                    elapsed=[now - job.started_at.timestamp() for job in running if job.started_at is not None],
                    typical=statistics.median(latest) if latest else None,
                )
            return self._look
