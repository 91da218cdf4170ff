"""One trial: a job is submitted, harmed, and held against one that nothing harmed."""

import random
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.jobs import Outcome
from tests.chaos.oracle import Watched, complaints
from tests.chaos.places import Storage
from tests.chaos.scene import Missed, Scene
from tests.chaos.service import Overdue, Service, wait_until
from tests.chaos.world import World

FINISH_SECONDS = 600.0
"""How long a job may take to its end once it goes on; the machine may be busy."""
TRIES = 3
"""Jobs that may end before they are harmed."""


@dataclass
class Row:
    """What a fault came to."""

    fault: str
    injected: int = 0
    survived: int = 0
    recoveries: list[float] = field(default_factory=list)
    """Seconds."""
    complaints: list[str] = field(default_factory=list)
    """What did not hold, in words."""

    def add(self, other: "Row") -> None:
        self.injected += other.injected
        self.survived += other.survived
        self.recoveries += other.recoveries
        self.complaints += other.complaints

    @property
    def holds(self) -> bool:
        """Something was injected, and all of it survived."""
        return self.injected > 0 and self.injected == self.survived and not self.complaints


class Undisturbed:
    """What jobs come to that are left alone: found out once a kind, whatever the database, the storage and the Ray."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Outcome, float]] = {}

    def of(self, service: Service, storage: Storage, spec: dict[str, Any]) -> tuple[Outcome, float]:
        """Its outcome, and how many seconds it takes.  Overdue if even such a job leaves something to be desired."""
        if spec["name"] not in self._found:
            began = time.monotonic()
            job = service.client.submit(spec)
            with Watched(service.client, job.id) as watched:
                service.client.wait(job.id, timeout=FINISH_SECONDS, poll_seconds=0.2)
            seconds = time.monotonic() - began
            told = complaints(service, storage, job.id, watched, None)
            if told:
                raise Overdue(f"{job.id}, which nothing disturbed: {'; '.join(told)}")
            self._found[spec["name"]] = Outcome.of(service.client, job.id), seconds
        return self._found[spec["name"]]

    def took(self, spec: dict[str, Any], seconds: float) -> None:
        """Such a job was left alone for so long: with workers that are warm it takes less than the first one did."""
        outcome, before = self._found[spec["name"]]
        self._found[spec["name"]] = outcome, min(seconds, before)


def trial(fault: Fault, turn: int, world: World, undisturbed: Undisturbed, chance: random.Random) -> Row:
    """Harms one job, and tells how it took it."""
    row = Row(fault.name)
    try:
        world.open()
        service, storage = world.service, world.files
        for _ in range(TRIES):
            outcome, seconds = undisturbed.of(service, storage, fault.spec())
            job = service.client.submit(fault.spec())
            scene = Scene(service, job.id, chance, seconds, turn, world.cluster)
            with Watched(service.client, job.id) as watched:
                harmed = _strike(fault, scene)
                wait_until(lambda scene=scene: scene.job.is_finished, seconds=FINISH_SECONDS, what=f"{job.id} finishes")
            if harmed:
                break
            undisturbed.took(fault.spec(), time.monotonic() - scene.submitted_at)
        else:
            raise Overdue(f"{TRIES} jobs ended before they could be harmed")
        row.recoveries = scene.recoveries
        row.complaints = [*scene.notes, *complaints(service, storage, job.id, watched, outcome)]
    except Exception as error:  # a fault that breaks the harness's own view is a fault that was not survived
        row.complaints.append(f"{type(error).__name__}: {error}")
        if not isinstance(error, Overdue):
            row.complaints.append(traceback.format_exc())
    row.injected, row.survived = 1, int(not row.complaints)
    return row


def _strike(fault: Fault, scene: Scene) -> bool:
    try:
        fault.strike(scene)
    except Missed:
        return False
    return True
