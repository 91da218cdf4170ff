"""Looks at a Ray cluster before jobs run there, as often as it takes, and keeps them back while something is wrong.

A cluster of somebody else's is looked at before its first job, and again whenever its head was started anew.  What can
only be told by trying - a machine that joins later without the storage - the work on it tells.
"""

import json
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from service.clock import Clock, SystemClock
from service.cluster_findings import Finding, Look, judge
from service.queue import CLUSTER
from service.ray_jobs import ENDED
from service.settings import Settings

log = logging.getLogger(__name__)

LOOKED_AT = f"{CLUSTER}it is looked at before its first job."
LOOK_SECONDS = 180.0
"""How long a look may take."""
AGAIN_SECONDS = 30.0
"""Between the end of a look that found something wrong and the next, while jobs wait."""
_NUM_TOLD = 3


class Cluster(Protocol):
    """What is needed of Ray; `service.ray_jobs.RayJobs` is one.  Every method raises RayUnavailable."""

    address: str

    def session(self) -> str: ...
    def start_look(self, *paths: str) -> str: ...
    def status(self, submission: str) -> str | None: ...
    def log(self, submission: str) -> str: ...
    def stop(self, submission: str) -> bool: ...


class ClusterCheck:
    """Asked again and again, it never waits: every answer is what is known by then."""

    def __init__(self, cluster: Cluster, settings: Settings, clock: Clock | None = None) -> None:
        self._cluster = cluster
        self._settings = settings
        self._clock = clock or SystemClock()
        self._begin("")

    def objection(self, *, wanted: bool) -> str | None:
        """Why no job can start; None: all is well.  `wanted`: a job waits for the answer.  RayUnavailable."""
        session = self._cluster.session()
        if session != self._session:  # another head: what was known went with the one before
            self._begin(session)
        if self._has_passed:
            return None
        if self._submission:
            self._follow()
        elif self._clock.monotonic() >= self._again_at and (wanted or self._objection == LOOKED_AT):
            self._submission, self._since = self._cluster.start_look(), self._clock.monotonic()
        return None if self._has_passed else self._objection

    def _begin(self, session: str) -> None:
        self._session, self._has_passed, self._objection = session, False, LOOKED_AT
        self._submission, self._since, self._again_at = "", 0.0, 0.0

    def _follow(self) -> None:
        found = ended(self._cluster, self._submission, self._settings)
        if found is None:
            if self._clock.monotonic() - self._since <= LOOK_SECONDS:
                return
            found = overdue(self._cluster, self._submission, self._settings)
        self._submission, self._again_at = "", self._clock.monotonic() + AGAIN_SECONDS
        for finding in found.findings:
            level = logging.INFO if finding.verdict == "ok" else logging.WARNING
            log.log(level, "the cluster: %s: %s %s", finding.subject, finding.found, finding.fix)
        self._has_passed = not found.wrong
        if found.wrong:
            self._objection = objection_to(found.wrong)


def look_now(cluster: Cluster, settings: Settings, *paths: str) -> Look:
    """Looks, and waits for what is found.  RayUnavailable."""
    submission = cluster.start_look(*paths)
    deadline = time.monotonic() + LOOK_SECONDS
    while (found := ended(cluster, submission, settings)) is None:
        if time.monotonic() > deadline:
            return overdue(cluster, submission, settings)
        time.sleep(0.3)
    return found


def ended(cluster: Cluster, submission: str, settings: Settings) -> Look | None:
    """What a look found; None while it is under way."""
    status = cluster.status(submission)
    if status is not None and status not in ENDED:
        return None
    return judge("" if status is None else cluster.log(submission), settings)


def overdue(cluster: Cluster, submission: str, settings: Settings) -> Look:
    """Ends a look that does not end by itself."""
    pending = cluster.status(submission) == "PENDING"
    cluster.stop(submission)
    if pending and settings.driver_resources:
        offered = json.dumps(dict.fromkeys(settings.driver_resources, 100))
        found = f"no machine has {json.dumps(settings.driver_resources)} to spare, which drivers take"
        fix = f"Start Ray on a machine without GPUs with --resources='{offered}', or unset COHORT_DRIVER_RESOURCES."
    else:
        found, fix = f"a look at it did not end within {LOOK_SECONDS:g} s", "See the Ray dashboard for its log."
    return Look((Finding("cluster", "wrong", found, fix),))


def objection_to(wrong: Sequence[Finding]) -> str:
    """What is wrong in one text, for somebody whose job waits."""
    told = [f"{finding.subject}: {finding.found}. {finding.fix}" for finding in wrong[:_NUM_TOLD]]
    more = len(wrong) - _NUM_TOLD
    return CLUSTER + " ".join([*told, *([f"And {more} more: `cohort doctor` tells all."] if more > 0 else [])])
