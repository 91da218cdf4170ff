"""An installation whose processes can die at any named point: control plane, driver and the user's server.

Everything is real - store, coordinator, driver, stages, files - but Ray, the device workers and time: drivers run in
this thread, and a second passes with every look.  So a run is the same for the same plan of faults, and waiting costs
nothing.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from service.artifacts import JobFiles
from service.clock import FakeClock
from service.coordinator import Coordinator
from service.driver import run_job
from service.ray_jobs import FakeRayJobs
from service.records import Job
from service.settings import Settings
from service.spec import parse_spec
from service.states import ALLOWED_MOVES, Desired, JobState
from service.store import Store
from workers import faults
from workers.launching.fake import FakeLauncher
from workers.launching.launcher import Running

SPEC = {
    "name": "crashing",
    "backbone": {"model": "demo"},
    "tasks": [{"name": name, "source": {"kind": "demo", "task": name}} for name in ("squiggles", "plain", "noisy")],
    "profile": {"max_steps": 2, "snapshots": 2, "microbatches": 2, "max_microbatches": 0},
    "grouping": {"num_groups": 2, "approve": True},
    "training": {"max_steps": 6, "batch_size": 4, "checkpoint_every": 2},
    "baselines": ["all"],
}
TRIVIAL = SPEC | {"method": {"kind": "mmap", "sharing": "alone"}, "grouping": {}, "baselines": []}
LOOKS = 400
RECOVERY_SECONDS = 45.0
"""Lease 30, the longest pause before a first retry 10, and looks."""


@dataclass
class Ending:
    """What is left when all is over."""

    state: JobState
    groups: dict[str, str]
    learned: dict[str, bytes]
    results: list[tuple[Any, ...]]
    files: list[str]

    @classmethod
    def of(cls, store: Store, files: JobFiles, job: Job) -> "Ending":
        learned = {
            str(path.relative_to(files.root)): b"".join(tensor.tobytes() for tensor in load_file(path).values())
            for path in sorted(files.root.rglob("learned.safetensors"))
        }
        rows = [(row.task, row.baseline, row.group, row.score) for row in store.results(job.id)]
        found = {group.id: group.state for group in store.groups(job.id)}
        kept = [each.path for each in files.list() if not each.path.startswith("tensorboard/")]  # one file an attempt
        return cls(job.state, found, learned, rows, kept)


@dataclass
class Scenario:
    """What a user does, look by look; answers whether there is more to do."""

    name: str
    spec: dict[str, Any]
    end: JobState
    deaf: bool = False
    """Drivers do nothing until they are ended."""
    pauses: bool = False
    retries: bool = False
    """The job retries another one, which failed once all was trained."""
    weight: int = 1
    """How often it is played, beside the others."""

    def user(self, home: "Installation", job: Job) -> None:
        """Does what is to be done now; repeatable, as every verb is."""
        if self.deaf:
            if job.is_active:
                home.store.set_desired(job.id, Desired.CANCEL)
        elif self.pauses and not home.paused and job.state == JobState.TRAINING:
            home.store.set_desired(job.id, Desired.PAUSE)
            home.paused = True
        elif job.state == JobState.PAUSED and job.desired == Desired.PAUSE:
            home.store.set_desired(job.id, Desired.RUN)
        elif job.state == JobState.AWAITING_APPROVAL:
            home.store.approve_plan(job.id, 0)


SCENARIOS = (
    Scenario("approved", SPEC, JobState.SUCCEEDED),
    Scenario("paused", TRIVIAL, JobState.SUCCEEDED, pauses=True, weight=3),
    Scenario("retried", TRIVIAL, JobState.SUCCEEDED, retries=True),
    Scenario("deaf", TRIVIAL, JobState.CANCELLED, deaf=True),
)


@dataclass
class Installation:
    """One database, one storage, one Ray; processes come and go."""

    url: str
    root: Path
    clock: FakeClock = field(default_factory=FakeClock)
    paused: bool = False
    deaths: list[str] = field(default_factory=list)
    passed: dict[str, int] = field(default_factory=dict)
    """Point -> how often it was passed."""

    def __post_init__(self) -> None:
        self.ray = FakeRayJobs()
        self._opened: list[Store] = []
        self.store = self.open()
        self.store.create_schema()

    def open(self) -> Store:
        self._opened.append(Store(self.url, now=self.clock.time))
        return self._opened[-1]

    def settings(self, name: str) -> Settings:
        values = {"home": self.root / name, "storage": str(self.root / "storage"), "database_url": self.url}
        return Settings.model_validate(
            values | {"poll_seconds": 0.001, "lease_seconds": 30.0, "cancel_grace_seconds": 5}
        )

    def files(self, job: str) -> JobFiles:
        return JobFiles(self.root / "storage", job)

    def run(self, scenario: Scenario, plan: str, rng: random.Random) -> tuple[Job, float]:
        """Plays the scenario under a plan of faults to its end: the job, and how many seconds it took."""
        began, names = self.clock.time(), count()
        key = f"{scenario.name}-{plan}-{rng.random()}"
        failed = self._failed(scenario) if scenario.retries else None
        spec = parse_spec(scenario.spec)
        faults.arm(plan)
        try:
            coordinator = self._control_plane(str(next(names)), rng)
            job: Job | None = None
            while job is None:
                job = self._survives(lambda: self.store.create_job(spec, idempotency_key=key, retry_of=failed)[0])
                if job is None:
                    self.store = self._again(self.store)
            self.paused = False
            for _ in range(LOOKS):
                self.clock.advance(1.0)
                if self._survives(lambda acts=coordinator: (acts.tick(), True)) is None:
                    # started again in its own home, which may act at once; or another one takes over in a while
                    name = "0" if rng.random() < 0.5 else str(next(names))
                    coordinator = self._control_plane(name, rng)
                self._drivers(scenario)
                job = self.store.get_job(job.id)
                if job.is_finished:
                    break
                if self._survives(lambda job=job: (scenario.user(self, job), True)) is None:
                    self.store = self._again(self.store)
            seconds = self.clock.time() - began
            self.passed = faults.passed()
            faults.arm("")
            for _ in range(3):  # whatever is left over has gone within a minute
                self.clock.advance(20.0)
                coordinator.tick()
            return job, seconds
        finally:
            faults.arm("")

    def complaints(self, scenario: Scenario, job: Job, expected: Ending) -> list[str]:
        """What is wrong with a job that should have ended as if nothing had happened, in words."""
        told = of_events(self.store, job)
        job = self.store.get_job(job.id)
        found = Ending.of(self.store, self.files(job.id), job)
        if job.state != scenario.end:
            told.append(f"the job is {job.state}: {job.reason}")
        for what in ("groups", "learned", "results", "files"):
            if getattr(found, what) != getattr(expected, what):
                told.append(f"{what}: {getattr(found, what)} instead of {getattr(expected, what)}")
        hidden = [path.name for path in self.files(job.id).root.rglob(".*") if path.is_file()]
        if hidden:
            told.append(f"drafts are left over: {hidden}")
        if self.ray.unfinished():
            told.append(f"drivers are left over: {self.ray.unfinished()}")
        if len(self.store.list_jobs(limit=500)[0]) != 1 + scenario.retries:
            told.append("more than one job was made")
        return told

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def _control_plane(self, name: str, rng: random.Random) -> Coordinator:
        chance = random.Random(rng.random())
        return Coordinator(self.open_like(), self.ray, self.settings(name), clock=self.clock, chance=chance.random)

    def open_like(self) -> Store:
        """A process's own store, where the database can be shared by processes."""
        return self.store if self.url == "sqlite://" else self.open()

    def _again(self, store: Store) -> Store:
        if self.url == "sqlite://":
            return store
        return self.open()

    def _drivers(self, scenario: Scenario) -> None:
        """Every driver that was submitted runs to its end or its death, unless it is deaf."""
        for submission, job_id in self.ray.unfinished().items():
            if scenario.deaf:
                continue
            attempt = int(submission.rpartition("-a")[2])
            store, launcher = self.open_like(), _Watched(lambda job_id=job_id: self._meanwhile(scenario, job_id))
            ended = self._survives(
                lambda job_id=job_id, attempt=attempt, store=store, launcher=launcher: run_job(
                    job_id,
                    attempt,
                    store=store,
                    files=self.files(job_id),
                    launcher=launcher,
                    settings=self.settings("0"),
                )
            )
            launcher.close()
            self.ray.finish(submission, "FAILED" if ended is None else "SUCCEEDED")

    def _failed(self, scenario: Scenario) -> str:
        """A job whose driver died once all was trained, and that nobody tries again."""
        job = self.store.create_job(parse_spec(scenario.spec))[0].id
        attempt, launcher = self.store.start_attempt(job), _Watched(lambda: None)
        faults.arm("driver.bundle.writes:crash")
        with pytest.raises(faults.Crash):
            run_job(
                job,
                attempt,
                store=self.store,
                files=self.files(job),
                launcher=launcher,
                settings=self.settings("0"),
            )
        faults.arm("")
        launcher.close()
        self.store.move(job, JobState.FAILED, attempt=attempt)
        return job

    def _meanwhile(self, scenario: Scenario, job_id: str) -> None:
        """The user acts while a driver waits for its workers."""
        if self._survives(lambda: (scenario.user(self, self.store.get_job(job_id)), True)) is None:
            self.store = self._again(self.store)

    def _survives(self, does: Callable[[], Any]) -> Any:
        """What it returns; None if the process died on the way."""
        try:
            return does()
        except faults.Crash as crash:
            self.deaths.append(str(crash))
            return None


class _Watched(FakeLauncher):
    """Something else happens whenever the driver waits."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(devices=2, sleep=lambda seconds: None)
        self._meanwhile = meanwhile

    def wait(self, running: Sequence[Running], seconds: float) -> None:
        self._meanwhile()
        super().wait(running, seconds)


def of_events(store: Store, job: Job) -> list[str]:
    """What is wrong with the events of a job, in words."""
    told = []
    events = store.events(job.id, limit=5000)
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        told.append(f"events are numbered {[event.seq for event in events]}")
    states = [JobState(event.data["to"]) for event in events if event.kind == "state"]
    told += [f"{old} -> {new} is no move" for old, new in pairwise(states) if new not in ALLOWED_MOVES[old]]
    attempts = [event.attempt for event in events]
    if attempts != sorted(attempts):
        told.append(f"an older attempt spoke after a newer one: {attempts}")
    if states[-1] != store.get_job(job.id).state:
        told.append(f"the events end in {states[-1]}, and the job is {store.get_job(job.id).state}")
    if states.count(JobState.STARTING) != store.get_job(job.id).attempt:
        told.append(f"{states.count(JobState.STARTING)} attempts were told of {store.get_job(job.id).attempt}")
    return told
