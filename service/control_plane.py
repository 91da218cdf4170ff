"""The control plane: a store, a coordinator, and Ray - a head of our own, or a cluster by its address.

Start: lock the home, open the store, start or adopt Ray, coordinate.  A clean stop of an embedded service tells the
drivers to drain and waits a few seconds for their checkpoints; what ran is QUEUED then and goes on at the next start.
With a cluster of somebody else's, training goes on without us.

Several control planes, each with a home of its own, may share a database, a storage and a cluster: all answer, and the
one that holds the lease acts.
"""

import fcntl
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import TextIO

from service.cluster_check import ClusterCheck
from service.coordinator import Coordinator
from service.errors import DatabaseUnavailable, RayUnavailable, ServiceRunning, StaleLease
from service.glance import Glance
from service.keeper import Keeper
from service.planning import Planner
from service.ray_head import RayHead
from service.ray_jobs import DriverJobs, RayJobs
from service.settings import Settings
from service.states import JobState
from service.store import Store
from service.telemetry import Telemetry
from workers import faults
from workers.storage import make_folder, problem
from workers.storage_mark import mark_storage

log = logging.getLogger(__name__)

_HEAD_LOOK_SECONDS = 2.0
_LAST_LOOK_SECONDS = 2.0
KEEP_SECONDS = 20.0
"""Between two looks at what files take and which are not wanted any more."""


class ControlPlane:
    """What the API and `cohort up` hold on to."""

    def __init__(self, settings: Settings, *, store: Store | None = None, ray_jobs: DriverJobs | None = None) -> None:
        """
        Args:
            store: one that exists already; left out, the one of the settings.
            ray_jobs: where drivers run; left out, a Ray head of our own or the cluster of the settings.
        """
        self.settings = settings
        self.store = store or Store(settings.database_url)
        self.telemetry = Telemetry(self.store)
        self.planner = Planner(self.store, settings)
        self.ray_jobs = ray_jobs
        self._head = RayHead(settings) if ray_jobs is None and settings.ray_address is None else None
        self._check: ClusterCheck | None = None
        self._lock: TextIO | None = None
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._coordinator: Coordinator | None = None
        self._storage = Glance("storage", lambda: problem(settings.storage_place))
        self._ray = Glance("Ray cluster", self._ray_problem)

    def start(self) -> None:
        """Takes up the work where any earlier control plane left it.  ServiceRunning if another one is at it."""
        self._lock = _locked(self.settings.home / "lock")
        faults.arm(self.settings.faults, self.settings.faults_ledger)
        try:
            self.store.create_schema()
            make_folder(self.settings.storage_place)
            mark_storage(self.settings.storage_place)
            self.settings.write_running()
            self._start_ray()
        except BaseException:  # an interrupt, too: a start that failed leaves nothing running
            if self._head is not None:
                self._head.stop()
            self._release()
            raise
        assert self.ray_jobs is not None
        self._coordinator = Coordinator(
            self.store, self.ray_jobs, self.settings, check=self._check, telemetry=self.telemetry
        )
        self._stop.clear()
        self._threads = [threading.Thread(target=self._coordinator.run, args=(self._stop,), name="coordinator")]
        keeper = Keeper(self.store, self.settings)
        self._threads.append(
            threading.Thread(target=self._keep, args=(keeper, self._coordinator), name="keeper", daemon=True)
        )
        if self._head is not None:
            self._threads.append(threading.Thread(target=self._keep_head, args=(self._head,), name="ray-head"))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends cleanly, within about fifteen seconds.  Repeatable."""
        self.planner.close()
        if self._lock is None:
            return
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=_LAST_LOOK_SECONDS if thread.daemon else None)
        assert self._coordinator is not None
        try:
            if self.settings.ray_address is None and self._coordinator.fence is not None:
                self._drain(self._coordinator.fence)
            self._coordinator.rest()
        except (DatabaseUnavailable, StaleLease) as error:  # what runs is taken up by whoever comes next
            log.warning("the service could not drain: %s", error)
        finally:
            if self._head is not None:
                self._head.stop()
            self._release()

    @property
    def dashboard(self) -> str | None:
        """Where Ray's dashboard is, once started."""
        return self._head.address if self._head is not None else self.settings.ray_address

    @property
    def dashboard_token(self) -> str | None:
        """What Ray's dashboard asks for: code execution on the cluster to whoever has it."""
        if self._head is not None:
            return self._head.token
        return None if self.settings.ray_token is None else self.settings.ray_token.get_secret_value()

    def ready(self) -> dict[str, str | bool]:
        """Dependency (database, storage, ray) -> True, or a sentence on what is wrong with it."""
        return {"database": self._database_answers(), "storage": self._storage(), "ray": self._ray()}

    def _start_ray(self) -> None:
        if self._head is not None:
            head = self._head
            head.start(lambda address: RayJobs(address, head.token).alive())
            self.ray_jobs = RayJobs(head.address, head.token)
        elif self.ray_jobs is None:
            token = self.settings.ray_token
            address = self.settings.ray_address
            assert address is not None
            self.ray_jobs = RayJobs(
                address,
                token.get_secret_value() if token else None,
                python=self.settings.ray_python,
                resources=self.settings.driver_resources,
            )
            self._check = ClusterCheck(self.ray_jobs, self.settings)

    def _keep_head(self, head: RayHead) -> None:
        """Starts a new head when ours died.  Its jobs are lost with it, which the coordinator finds out by itself."""
        while not self._stop.wait(_HEAD_LOOK_SECONDS):
            try:
                if head.is_running():
                    continue
                log.error("the Ray head ended; a new one is started")
                head.start(lambda address: RayJobs(address, head.token).alive(), give_up=self._stop.is_set)
            except Exception:  # a full disk, no process to be had: whatever it is, it may pass
                log.exception("no new Ray head; trying again")
                continue
            assert isinstance(self.ray_jobs, RayJobs)
            self.ray_jobs.move_to(head.address)

    def _keep(self, keeper: Keeper, coordinator: Coordinator) -> None:
        """In a thread of its own: a storage that hangs holds up no job."""
        while not self._stop.wait(KEEP_SECONDS):
            try:
                if coordinator.fence is not None:
                    keeper.measure(time.time())
                    keeper.purge(time.time())
                    keeper.forget(time.time())
            except Exception:
                log.exception("files were not looked after; the next try is in %.0f s", KEEP_SECONDS)

    def _drain(self, fence: int) -> None:
        """Drivers checkpoint and hand their jobs back; those of drivers that are too slow are taken back."""
        assert self.ray_jobs is not None
        self.store.set_draining(True)
        deadline = time.monotonic() + self.settings.drain_seconds
        while self.store.active_jobs() and time.monotonic() < deadline:
            time.sleep(0.1)
        for job in self.store.active_jobs():
            log.warning("job %s did not reach a checkpoint in time; it resumes from its last one", job.id)
            try:
                self.ray_jobs.stop(job.submission_id or "")
            except RayUnavailable as error:  # the head's own end takes the driver along
                log.warning("%s", error)
            reason = "The service was shut down; the job goes on from its last checkpoint at the next start."
            self.store.move(job.id, JobState.QUEUED, attempt=job.attempt, reason=reason, fence=fence)

    def _database_answers(self) -> str | bool:
        try:
            self.store.ping()
        except DatabaseUnavailable as error:
            return str(error)
        return True

    def _ray_problem(self) -> str | None:
        if self.ray_jobs is None:
            return "Ray has not been started yet."
        return None if self.ray_jobs.alive() else "Ray does not answer; running jobs go on, new ones wait."

    def _release(self) -> None:
        assert self._lock is not None
        self._lock.close()
        self._lock = None


def _locked(path: Path) -> TextIO:
    """Holds the home folder; the lock ends with the process, however that ends."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise ServiceRunning(
            f"Another control plane (process {holder}) works in {path.parent}. "
            "Stop it, or set COHORT_HOME to another folder."
        ) from error
    file.truncate(0)
    file.write(json.dumps(os.getpid()))
    file.flush()
    return file
