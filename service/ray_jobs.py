"""Job drivers as Ray Jobs, over HTTP.  The control plane is never a Ray driver: a Ray that dies cannot take it along.

`FakeRayJobs` is the same thing without Ray, for tests and for services that only plan; it keeps the same contract.
"""

import contextlib
import secrets
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import ray
import requests
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from service.errors import RayUnavailable
from service.logs import as_text
from service.records import submission_id
from workers.faults import Crash

DRIVER = (sys.executable, "-m", "service.driver")
LOOK = "cohort-look-"
"""How the submission ids of looks at the cluster begin."""
ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
"""Statuses of a Ray Job whose driver has ended; the others are PENDING and RUNNING."""
_JOB = "cohort_job"
_HTTP_SECONDS = 10.0
_LOG_CHARACTERS = 4000


class DriverJobs(Protocol):
    """What the coordinator needs of Ray.  Every method but `alive` raises RayUnavailable if Ray does not answer."""

    def submit(self, job_id: str, attempt: int, name: str) -> str:
        """Starts the attempt's driver; its submission id.  The same attempt is started once, however often asked."""
        ...

    def status(self, submission: str) -> str | None:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; None: Ray knows no such job."""
        ...

    def unfinished(self) -> dict[str, str]:
        """Submission id -> job id, of every driver of a Cohort job that has not ended; the jobs may be others' own."""
        ...

    def stop(self, submission: str) -> bool:
        """Asks the driver to end (SIGTERM, then SIGKILL).  False: there was nothing to stop."""
        ...

    def log_tail(self, submission: str, lines: int = 30) -> str:
        """The last lines that the driver wrote; empty if there are none."""
        ...

    def alive(self) -> bool:
        """Whether Ray answers."""
        ...


class _Client(JobSubmissionClient):
    """Ray's client, but at the address it was given (Ray lets RAY_ADDRESS win), without a connection at birth, and with
    time limits, so that a hanging Ray does not hang the coordinator."""

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        SubmissionClient.__init__(self, address=address, headers=headers)
        self._client_ray_version = ray.__version__

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": _HTTP_SECONDS, **kwargs})


class RayJobs:
    """Drivers on a Ray cluster."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        entrypoint: Sequence[str] = DRIVER,
        python: str | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            address: `http://host:port` of the Jobs API.
            entrypoint: the command, to which job id and attempt are added.  It reads its settings itself.
            python: the interpreter on the cluster that it starts with, if that is another one than here.
            resources: what a driver takes, so that it starts where they are; none: on Ray's head.
        """
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._python = python or entrypoint[0]
        self._entrypoint = (self._python, *entrypoint[1:])
        self._placement: dict[str, Any] = {"entrypoint_num_cpus": 0}
        if resources:
            self._placement["entrypoint_resources"] = dict(resources)
        self.move_to(address)

    def move_to(self, address: str) -> None:
        """From now on asks the Ray at another address (a new head)."""
        self.address = address
        self._client = _Client(address, dict(self._headers))

    def submit(self, job_id: str, attempt: int, name: str) -> str:
        submission = submission_id(job_id, attempt)
        with _asking(self.address):
            try:
                self._client.submit_job(
                    entrypoint=shlex.join([*self._entrypoint, job_id, str(attempt)]),
                    submission_id=submission,
                    metadata={"job_name": name, _JOB: job_id, "cohort_attempt": str(attempt)},
                    **self._placement,
                )
            except RuntimeError:  # Ray answers 500 to an id it has already, and to real trouble
                if self.status(submission) is None:
                    raise
        return submission

    def status(self, submission: str) -> str | None:
        with _asking(self.address):
            try:
                return str(self._client.get_job_status(submission).value)
            except RuntimeError as error:
                if "404" in str(error):
                    return None
                raise

    def unfinished(self) -> dict[str, str]:
        with _asking(self.address):
            found = self._client.list_jobs()
        return {
            each.submission_id: each.metadata[_JOB]
            for each in found
            if each.submission_id and each.status not in ENDED and each.metadata and _JOB in each.metadata
        }

    def stop(self, submission: str) -> bool:
        if self.status(submission) in (None, *ENDED):
            return False
        with _asking(self.address):
            return bool(self._client.stop_job(submission))

    def log_tail(self, submission: str, lines: int = 30) -> str:
        if self.status(submission) is None:
            return ""
        with _asking(self.address):
            said = (self._client.get_job_logs(submission) or "").splitlines()[-lines:]
        return as_text("\n".join(said))[-_LOG_CHARACTERS:]

    def alive(self) -> bool:
        try:
            with _asking(self.address):
                self._client.get_version()
        except RayUnavailable:
            return False
        return True

    # looks at the cluster

    def session(self) -> str:
        """Names the cluster's present life: another one after its head was started anew."""
        with _asking(self.address):
            answer = self._client._do_request("GET", "/api/version")
            answer.raise_for_status()
            return str(answer.json()["session_name"])

    def start_look(self, *paths: str) -> str:
        """Starts a look at every node, and at these paths there, as a driver would be started; its submission id.

        Of looks before it that have ended, Ray forgets: one row is enough.  (Not when they end, which Ray would take
        for a failure.)
        """
        with _asking(self.address):
            for job in self._client.list_jobs():
                if job.submission_id and job.submission_id.startswith(LOOK) and job.status in ENDED:
                    self._client.delete_job(job.submission_id)
            return self._client.submit_job(
                entrypoint=shlex.join([self._python, "-m", "service.cluster_look", *paths]),
                submission_id=f"{LOOK}{secrets.token_hex(4)}",
                metadata={"job_name": "cohort: a look at the cluster"},
                **self._placement,
            )

    def log(self, submission: str) -> str:
        """All that a driver wrote."""
        with _asking(self.address):
            return self._client.get_job_logs(submission) or ""


class FakeRayJobs:
    """Drivers without Ray: each is a thread or, without `run`, is RUNNING until `finish` ends it."""

    def __init__(self, run: Callable[[str, int], None] | None = None) -> None:
        """`run(job_id, attempt)` stands for the driver: returning is SUCCEEDED, raising is FAILED."""
        self._run = run
        self._statuses: dict[str, str] = {}
        self._logs: dict[str, str] = {}
        self._lock = threading.Lock()
        self.reachable = True
        """Set it to False to see how the service does without Ray."""

    def submit(self, job_id: str, attempt: int, name: str) -> str:
        submission = submission_id(job_id, attempt)
        with self._asking():
            if submission in self._statuses:
                return submission
            self._statuses[submission] = "RUNNING"
            self._logs[submission] = ""
        if self._run is not None:
            threading.Thread(
                target=self._drive, args=(self._run, job_id, attempt), name=submission, daemon=True
            ).start()
        return submission

    def status(self, submission: str) -> str | None:
        with self._asking():
            return self._statuses.get(submission)

    def unfinished(self) -> dict[str, str]:
        with self._asking():
            return {each: each.rpartition("-a")[0] for each, status in self._statuses.items() if status not in ENDED}

    def stop(self, submission: str) -> bool:
        with self._asking():
            if self._statuses.get(submission, "STOPPED") in ENDED:
                return False
            self._statuses[submission] = "STOPPED"
            return True

    def log_tail(self, submission: str, lines: int = 30) -> str:
        with self._asking():
            return "\n".join(self._logs.get(submission, "").splitlines()[-lines:])

    def alive(self) -> bool:
        return self.reachable

    def finish(self, submission: str, status: str, log: str = "") -> None:
        """Ends a driver from outside, as a crash would."""
        assert status in ENDED, f"{status} is no end; ends are {sorted(ENDED)}"
        with self._lock:
            if self._statuses[submission] not in ENDED:
                self._statuses[submission] = status
                self._logs[submission] = log

    def forget(self) -> None:
        """Loses every job, as a new Ray head has."""
        with self._lock:
            self._statuses.clear()
            self._logs.clear()

    def _drive(self, run: Callable[[str, int], None], job_id: str, attempt: int) -> None:
        submission = submission_id(job_id, attempt)
        try:
            run(job_id, attempt)
        except (Exception, Crash) as error:  # the border of the driver: whatever it raised is how it ended
            self.finish(submission, "FAILED", f"{type(error).__name__}: {error}")
        else:
            self.finish(submission, "SUCCEEDED")

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        if not self.reachable:
            raise RayUnavailable("Ray does not answer (the fake was told so).")
        with self._lock:
            yield


@contextlib.contextmanager
def _asking(address: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        raise RayUnavailable(f"Ray at {address} refuses our token ({error}). Set COHORT_RAY_TOKEN.") from error
    except (
        OSError,
        RuntimeError,
    ) as error:  # requests' errors are OSErrors; Ray's client raises RuntimeError otherwise
        raise RayUnavailable(f"Ray's Jobs API at {address} does not answer: {error}") from error
