"""The Python client: `Cohort("http://127.0.0.1:8080", key).submit("job.yaml")`.  `AsyncCohort` is its async twin.

Calls that may be sent twice are tried again, with growing pauses, when the connection breaks or the service answers
502, 503 or 504; submitting is one of them, because every submission carries an Idempotency-Key.  Needs neither torch
nor ray.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2

from service import calls, wire, wire_plans
from service.async_client import AsyncCohort
from service.calls import ApiError, BundleBroken, Call, Unreachable
from service.client_keys import KeyCalls
from service.client_queue import QueueCalls
from service.spec import JobSpec
from service.states import Verb
from service.wire_estimate import Estimate

__all__ = ["ApiError", "AsyncCohort", "BundleBroken", "Cohort", "Unreachable"]

T = TypeVar("T")


class Cohort(KeyCalls, QueueCalls):
    """A connection to a service.  Close it, or use it in a `with`."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        tries: int = 5,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """
        Args:
            key: an API key; None for a service that asks for none.
            tries: how often a repeatable call is sent at most.
            sleep: waits between tries.
            transport: how requests travel; left out, over the network.
        """
        self.url = url.rstrip("/")
        self._http = httpx2.Client(**calls.connection(url, key), transport=transport)
        self._tries = tries
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self, job: JobSpec | Path | str | bytes | dict[str, Any], *, idempotency_key: str | None = None
    ) -> wire.Job:
        """Submits a job: a spec, a path, a dict, or YAML or JSON text.  ApiError 422 names every fault."""
        return self._send(calls.submit(job, idempotency_key=idempotency_key))

    def estimate(
        self, job: JobSpec | Path | str | bytes | dict[str, Any], *, idempotency_key: str | None = None
    ) -> Estimate:
        """Asks for a dry run of the job; `wait_for_estimate` has what it finds.  ApiError 422 names every fault."""
        return self._send(calls.estimate(job, idempotency_key=idempotency_key))

    def wait_for_estimate(self, job_id: str, *, timeout: float | None = None) -> Estimate:
        """Waits until the dry run has ended and returns it.  TimeoutError after `timeout` seconds."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not (found := self._send(calls.get_estimate(job_id, deadline - time.monotonic()))).is_finished:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"Estimate {job_id} is {found.state} after {timeout:.0f} s. Wait longer.")
        return found

    def validate(self, job: JobSpec | Path | str | bytes | dict[str, Any]) -> wire.Validation:
        """Whether the job would be accepted, and what a quick look at its data finds."""
        return self._send(calls.validate(job))

    def jobs(
        self, *, state: str | None = None, archived: bool = False, deleted: bool = False, page: int = 100
    ) -> Iterator[wire.JobSummary]:
        """Every job, newest first, fetched page by page as they are asked for; or the archived, or the deleted ones."""
        after = None
        while True:
            found = self._send(calls.jobs(state, after, page, archived=archived, deleted=deleted))
            yield from found.jobs
            after = found.next
            if after is None:
                return

    def job(self, job_id: str) -> wire.Job:
        """One job, as it stands."""
        return self._send(calls.job(job_id))

    def wait(self, job_id: str, *, timeout: float | None = None, poll_seconds: float = 1.0) -> wire.Job:
        """Waits until the job has finished and returns it.  TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (job := self.job(job_id)).is_finished:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"Job {job_id} is {job.state} after {timeout:.0f} s. Wait longer, or cancel it.")
            self._sleep(poll_seconds)
        return job

    def watch(self, job_id: str, *, after: int = 0) -> Iterator[wire.Event]:
        """Every event above `after`, as it comes, until the job has finished.

        A connection that breaks is taken up again where it broke: no event is lost, none comes twice.
        """
        failures = 0
        while True:
            try:
                with self._http.stream(**calls.stream(job_id, after)) as answer:
                    if not answer.is_success and answer.status_code not in calls.RETRIED_STATUSES:
                        answer.read()
                        calls.check(answer)
                    elif answer.is_success:
                        for sent in httpx2.EventSource(answer):
                            if sent.event == "end":
                                return
                            if sent.event == "bye":  # the service ends, the job goes on
                                break
                            event = wire.Event.model_validate_json(sent.data)
                            after, failures = event.seq, 0
                            yield event
                broke: Exception = RuntimeError("the stream ended early")
            except httpx2.TransportError as error:
                broke = error
            failures += 1
            if failures >= 2 * self._tries:
                raise calls.unreachable(self.url, broke) from broke
            self._sleep(calls.pause(failures))

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> list[wire.Event]:
        """Events above `after` so far, oldest first."""
        return self._send(calls.events(job_id, after, limit)).events

    def groups(self, job_id: str) -> wire.Groups:
        """Who trains with whom, how far they are, and why."""
        return self._send(calls.groups(job_id))

    def similarity(self, job_id: str) -> wire.Similarity:
        """How the tasks agree.  ApiError 404 until there is a plan."""
        return self._send(calls.similarity(job_id))

    def plan(self, job_id: str, number: int | None = None) -> dict[str, Any]:
        """A plan as it was written; without a number the one that trains, else the newest."""
        return self._send(calls.plan(job_id, number))

    def plans(self, job_id: str) -> list[wire_plans.PlanSummary]:
        """Every plan of the job, the newest last."""
        return self._send(calls.plans(job_id))

    def replan(
        self,
        job_id: str,
        settings: Mapping[str, Any] | None = None,
        *,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> wire_plans.PlanDetail:
        """Asks for another plan: `settings` of grouping to change, `groups` to take as they are, or both.

        Nothing trains.  The plan's review follows: see `reviewed_plan`.
        """
        return self._send(calls.replan(job_id, settings, groups))

    def reviewed_plan(self, job_id: str, number: int) -> wire_plans.PlanDetail:
        """A plan with its review, which is None while it is worked out."""
        return self._send(calls.reviewed_plan(job_id, number))

    def compare(self, job_id: str, first: int, second: int) -> wire_plans.PlanComparison:
        """How the second plan differs from the first."""
        return self._send(calls.compare(job_id, first, second))

    def add_tasks(
        self, job_id: str, tasks: Path | str | bytes | dict[str, Any], *, idempotency_key: str | None = None
    ) -> wire.Job:
        """Submits a job over a finished job's tasks and new ones, which join its groups; only what changes is trained.

        `tasks` is `{"tasks": [...]}` as a dict, a path, or YAML or JSON text.
        """
        return self._send(calls.add_tasks(job_id, tasks, idempotency_key=idempotency_key))

    def rerun(self, job_id: str, number: int, *, idempotency_key: str | None = None) -> wire.Job:
        """Submits a job that trains this plan of a finished job, with what that one has measured."""
        return self._send(calls.rerun(job_id, number, idempotency_key=idempotency_key))

    def metrics(
        self,
        job_id: str,
        *,
        group: str | None = None,
        task: str | None = None,
        name: str | None = None,
        after: int = 0,
    ) -> Iterator[wire.Metric]:
        """Numbers with an id above `after`, in the order in which they came, fetched page by page."""
        cursor: int | None = after
        while cursor is not None:
            page = self._send(calls.metrics(job_id, group, task, name, cursor))
            yield from page.metrics
            cursor = page.next

    def results(self, job_id: str) -> wire.Results:
        """Test scores under the plan and under every baseline."""
        return self._send(calls.results(job_id))

    def cancel(self, job_id: str, *, now: bool = False) -> wire.Job:
        """Asks the job to stop for good: with its last checkpoints written, or `now` without."""
        return self._send(calls.cancel(job_id, now=now))

    def pause(self, job_id: str) -> wire.Job:
        """Asks the job to write checkpoints and give its devices back."""
        return self._send(calls.verb(job_id, Verb.PAUSE))

    def resume(self, job_id: str) -> wire.Job:
        """Lets a paused job go on."""
        return self._send(calls.verb(job_id, Verb.RESUME))

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> wire.Job:
        """Submits a finished job once more; it takes over what that one has finished and trains the rest."""
        return self._send(calls.retry(job_id, idempotency_key=idempotency_key))

    def clone(
        self,
        job_id: str,
        overrides: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> wire.Job:
        """Submits a job like this one, with `overrides` merged into its description (RFC 7396)."""
        return self._send(calls.clone(job_id, overrides, name, idempotency_key=idempotency_key))

    def archive(self, job_id: str) -> wire.Job:
        """Takes a finished job out of the listing, and keeps it."""
        return self._send(calls.verb(job_id, Verb.ARCHIVE))

    def unarchive(self, job_id: str) -> wire.Job:
        """Puts an archived job back into the listing."""
        return self._send(calls.verb(job_id, Verb.UNARCHIVE))

    def delete(self, job_id: str) -> wire.Job:
        """Deletes a finished job, which can be restored until its `purge_at`."""
        return self._send(calls.verb(job_id, Verb.DELETE))

    def restore(self, job_id: str) -> wire.Job:
        """Takes a deletion back."""
        return self._send(calls.verb(job_id, Verb.RESTORE))

    def approve(self, job_id: str, number: int = 0) -> wire.Job:
        """Lets a plan be trained."""
        return self._send(calls.approve(job_id, number))

    def artifacts(self, job_id: str) -> list[wire.Artifact]:
        """The job's files."""
        return self._send(calls.artifacts(job_id))

    def artifact(self, job_id: str, path: str) -> bytes:
        """One file, whole."""
        return self._send(calls.artifact(job_id, path))

    def log(self, job_id: str, group: str, *, offset: int = 0) -> tuple[str, int]:
        """A group's log from byte `offset`, and the offset to go on at."""
        return self._send(calls.log(job_id, group, offset))

    def report(self, job_id: str) -> str:
        """The report, as HTML."""
        return self._send(calls.report(job_id))

    def pull(self, job_id: str, folder: Path | str) -> Path:
        """Fetches the job's bundle, each file checked against the manifest, the manifest last.  BundleBroken.

        Files that are there already are not fetched again, so a pull that broke off can be repeated.
        """
        folder = Path(folder)
        manifest = self.artifact(job_id, calls.MANIFEST)
        (folder / "manifest.json").unlink(missing_ok=True)  # its presence means complete
        for path, sha256 in calls.bundle_files(manifest).items():
            if not calls.is_there(folder, path, sha256):
                calls.write_checked(folder, path, self.artifact(job_id, f"bundle/{path}"), sha256)
        calls.write_file(folder / "manifest.json", manifest)
        return folder

    def ready(self) -> dict[str, Any]:
        """What the service stands on: database, storage, ray."""
        try:
            return self._http.get("/readyz").json()
        except httpx2.TransportError as error:
            raise calls.unreachable(self.url, error) from error

    def _send(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            last = attempt >= self._tries or not call.repeatable
            try:
                answer = self._http.request(
                    call.method, call.path, params=call.params, headers=call.headers, content=call.content
                )
            except httpx2.TransportError as error:
                if last:
                    raise calls.unreachable(self.url, error) from error
                self._sleep(calls.pause(attempt))
                continue
            if answer.status_code in calls.RETRIED_STATUSES and not last:
                self._sleep(calls.pause(attempt, answer))
                continue
            calls.check(answer)
            return call.read(answer)
