"""What must be true of a job after a fault, whatever the fault was.

The events have no gap and came over the stream as they are stored; every move is one of the table; every group ended as
the job says; weights, similarities and scores are those of a run that nothing interrupted; and soon nothing is left of
it: no driver, no actor but a warm device worker, no placement group, no draft.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import requests

from service import wire
from service.client import Cohort, Unreachable
from service.states import ALLOWED_MOVES, JobState
from tests.chaos.jobs import Outcome
from tests.chaos.places import Storage
from tests.chaos.service import Service, driver_of

LEFT_SECONDS = 60.0
"""How soon nothing may be left of a finished job."""

RAYS_OWN = "_AutoscalingCoordinatorActor"
"""One actor a cluster that Ray Train starts for itself and keeps."""
WARM = 2
"""Device workers that may wait for the next job: as many as there are CPUs."""


class Watched:
    """Follows a job's event stream through everything that happens to the service."""

    def __init__(self, client: Cohort, job_id: str) -> None:
        self.seqs: list[int] = []
        self.broke: str | None = None
        self._client, self._job_id = client, job_id
        self._thread = threading.Thread(target=self._follow, name=f"watch-{job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join(timeout=10.0 if error is None else 0.0)

    def _follow(self) -> None:
        try:
            for event in self._client.watch(self._job_id):
                self.seqs.append(event.seq)
        except Exception as error:  # told with the job's other faults
            self.broke = f"the stream of events broke: {type(error).__name__}: {error}"


def complaints(
    service: Service, storage: Storage, job_id: str, watched: Watched, undisturbed: Outcome | None
) -> list[str]:
    """What is wrong with a job that should have finished as if nothing had happened, in words."""
    client = service.client
    job, events = client.job(job_id), all_events(client, job_id)
    told = [*of_events(events, job.state), *_of_stream(events, watched), *_of_groups(client, job)]
    if job.state != JobState.SUCCEEDED:
        told.append(f"the job is {job.state}: {job.reason}")
    else:
        found = Outcome.of(client, job_id)
        told += [] if undisturbed is None else undisturbed.differences(found)
    return [*told, *left_over(service, storage, job_id, warm=WARM)]


def all_events(client: Cohort, job_id: str) -> list[wire.Event]:
    """Every event of a job."""
    events: list[wire.Event] = []
    while page := client.events(job_id, after=events[-1].seq if events else 0):
        events += page
    return events


def of_events(events: list[wire.Event], state: JobState) -> list[str]:
    told = []
    seqs = [event.seq for event in events]
    if seqs != list(range(1, len(seqs) + 1)):
        told.append(f"events are numbered {seqs}")
    at = JobState.QUEUED
    for event in events[1:]:
        if event.kind == "state":
            before, after = JobState(event.data["from"]), JobState(event.data["to"])
            if before != at or after not in ALLOWED_MOVES[before]:
                told.append(f"event {event.seq} moves {before} -> {after} where the job was {at}")
            at = after
    if not events or events[0].kind != "state" or events[0].data.get("to") != JobState.QUEUED:
        told.append("the first event is not that the job was accepted")
    if at != state:
        told.append(f"the events end in {at}, and the job is {state}")
    attempts = [event.attempt for event in events]
    if attempts != sorted(attempts):
        told.append(f"an older attempt spoke after a newer one: {attempts}")
    return told


def _of_stream(events: list[wire.Event], watched: Watched) -> list[str]:
    if watched.broke is not None:
        return [watched.broke]
    stored = [event.seq for event in events]
    return [] if watched.seqs == stored else [f"the stream brought the events {watched.seqs} of {stored}"]


def _of_groups(client: Cohort, job: wire.Job) -> list[str]:
    groups = client.groups(job.id).groups
    if job.state != JobState.SUCCEEDED:
        return []
    return [
        f"group {group.id} is {group.state} at step {group.step} of {group.num_steps} in a job that SUCCEEDED"
        for group in groups
        if group.state != "done" or (group.kind == "plan" and group.step != group.num_steps)
    ]


def left_over(service: Service, storage: Storage, job_id: str, *, warm: int = 0) -> list[str]:
    """What is left of a job that has finished, once it has had its time to go; the service runs nothing else.

    `warm`: how many device workers may stay, for the next job.
    """
    return _in_time(lambda: [*_of_job(storage, job_id), *_on_ray(service, warm)])


def left_on_ray(service: Service) -> list[str]:
    """What is left of all jobs, warm device workers too, once it has had its time to go."""
    return _in_time(lambda: _on_ray(service, warm=0))


def _in_time(left: Callable[[], list[str]]) -> list[str]:
    deadline = time.monotonic() + LEFT_SECONDS
    while (told := left()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return told


def _of_job(storage: Storage, job_id: str) -> list[str]:
    driver = driver_of(job_id)
    told = [] if driver is None else [f"left over: its driver, process {driver.pid}"]
    return [*told, *(f"left over: {name}" for name in storage.drafts(job_id))]


def _on_ray(service: Service, warm: int) -> list[str]:
    try:
        actors = [actor for actor in service.actors() if actor.kind != RAYS_OWN]
        groups = [each for each in service.ray_state("placement_groups") if each["state"] != "REMOVED"]
    except (requests.RequestException, Unreachable):
        return ["left over: nobody knows, because Ray does not answer"]
    may_stay = [actor for actor in actors if actor.kind == "DeviceWorker"][:warm]
    return [
        *(f"left over: actor {each.kind} {each.name} (process {each.pid})" for each in actors if each not in may_stay),
        *(f"left over: placement group {each['placement_group_id']}" for each in groups),
    ]
