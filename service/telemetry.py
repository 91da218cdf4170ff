"""What a control plane counts and times, for Prometheus (docs/reference/metrics.md).

No label names a job, a task or a path: every series lasts as long as the service, so there must be few of them.
What running jobs tell of themselves is Ray's to keep (`workers.launching.ray_group`).
"""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.errors import DatabaseUnavailable
from service.states import ACTIVE, JobState
from service.store import Store
from workers.failures import FailureClass

_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_LONG = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


class Telemetry:
    """The numbers of one control plane, in a registry of their own: several may live in one process."""

    def __init__(self, store: Store) -> None:
        self.registry = every = CollectorRegistry()
        self.requests = Counter("cohort_http_requests", "Requests.", ["method", "route", "status"], registry=every)
        self.request_seconds = Histogram(
            "cohort_http_seconds", "Seconds until the answer begins.", ["route"], buckets=_QUICK, registry=every
        )
        self.queue_seconds = Histogram(
            "cohort_queue_seconds",
            "Seconds from when a job could have started to the start of its attempt.",
            buckets=_LONG,
            registry=every,
        )
        self._ends = Counter(
            "cohort_attempts_ended",
            "Attempts that ended, by the state that they left their job in and the class of what went wrong.",
            ["state", "failure"],
            registry=every,
        )
        for state in set(JobState) - ACTIVE:  # from 0: where a series begins at 1, no increase is seen
            for failure in ("", *FailureClass) if state in (JobState.QUEUED, JobState.FAILED) else ("",):
                self._ends.labels(state, failure)
        self._reconcile_seconds = Histogram(
            "cohort_reconcile_seconds", "Seconds of a look of the coordinator.", buckets=_QUICK, registry=every
        )
        lag = Gauge("cohort_reconcile_lag_seconds", "Seconds since the coordinator's last whole look.", registry=every)
        lag.set_function(lambda: time.monotonic() - self._looked_at)
        self._acts = Gauge("cohort_acts", "1 while this control plane is the one that acts.", registry=every)
        self._ray_answers = Gauge("cohort_ray_answers", "1 if Ray answered at the last look.", registry=every)
        self._store_seconds = Histogram(
            "cohort_store_seconds", "Seconds of a transaction.", ["kind"], buckets=_QUICK, registry=every
        )
        self._store_failures = Counter(
            "cohort_store_failures", "Transactions that the database did not answer.", ["kind"], registry=every
        )
        self._looked_at = time.monotonic()
        every.register(_Jobs(store))
        store.watch = self._transaction

    def looked(self, seconds: float, *, acts: bool, ray_answers: bool) -> None:
        """The coordinator has had a whole look."""
        self._looked_at = time.monotonic()
        self._reconcile_seconds.observe(seconds)
        self._acts.set(acts)
        self._ray_answers.set(ray_answers)

    def attempt_ended(self, state: str, failure: str | None) -> None:
        self._ends.labels(state, failure or "").inc()

    def _transaction(self, kind: str, seconds: float, answered: bool) -> None:
        self._store_seconds.labels(kind).observe(seconds)
        self._store_failures.labels(kind).inc(not answered)


class _Jobs(Collector):
    """Counts jobs when it is asked, so that a restart changes nothing.  Without a database there is nothing to count,
    and the other numbers still come."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs, oldest = self.describe()
        try:
            for state, count in self._store.count_by_state().items():
                jobs.add_metric([state], count)
            oldest.add_metric([], self._store.longest_wait())
        except DatabaseUnavailable:  # counted as a failed transaction
            return
        yield from (jobs, oldest)

    def describe(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("cohort_jobs", "Jobs by state.", labels=["state"]),
            GaugeMetricFamily("cohort_queue_oldest_seconds", "How long the job has waited that waits for longest."),
        )
