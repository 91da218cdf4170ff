"""One job on its way, somebody who means it harm, and the clock that tells how long the harm was felt."""

import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service import wire
from service.processes import Process
from service.states import JobState
from tests.chaos.cluster import RayCluster
from tests.chaos.service import Actor, Service, driver_of, wait_until

RECOVERY_SECONDS = 400.0
"""How long a job may take to get further than it was; the machine may be busy."""
CLEARLY = 20
"""Steps that a group must have gained on what was known of it when it was struck: more than a driver hears late."""
_RANKS = {state: number for number, state in enumerate(JobState)}
Position = tuple[int, dict[str, int]]
"""A stage, and the steps of the groups that are under way."""
_BEFORE_STAGES = (JobState.QUEUED, JobState.STARTING, JobState.PAUSED)


class Missed(Exception):
    """The job had ended before it could be harmed: try again with another one."""


@dataclass
class Scene:
    """What a fault may look at and lay hands on."""

    service: Service
    job_id: str
    chance: random.Random
    usual_seconds: float
    """How long such a job takes when it is left alone."""
    turn: int
    """Counts the harms of one fault from 0, for those that come in several kinds."""
    cluster: RayCluster | None = None
    """The service's Ray, where that is not its own."""
    submitted_at: float = field(default_factory=time.monotonic)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from every harm until the job got further than it was."""
    notes: list[str] = field(default_factory=list)
    """What went wrong beside the job's own fate."""

    @property
    def job(self) -> wire.Job:
        return self.service.client.job(self.job_id)

    # when

    def any_moment(self) -> None:
        """Waits for a moment at random in the usual life of such a job; no stage is spared."""
        moment = self.submitted_at + self.chance.uniform(0.05, 0.75) * self.usual_seconds
        while time.monotonic() < moment:
            self._not_over()
            time.sleep(0.05)
        self._not_over()

    def in_training(self, latest: float = 0.6) -> str:
        """Waits for a step at random of a group, within that share of its steps; the group's id."""
        aim = self.chance.uniform(0.05, latest)

        def beyond() -> str | None:
            self._not_over()
            groups = [group for group in self.service.client.groups(self.job_id).groups if group.kind == "plan"]
            running = [group for group in groups if group.state == "running" and group.step > aim * group.num_steps]
            return self.chance.choice(running).id if running else None

        return wait_until(beyond, seconds=RECOVERY_SECONDS, what="a group trains")

    # whom

    def driver(self) -> Process:
        """The driver's process, as soon as there is one."""

        def found() -> Process | None:
            self._not_over()
            return driver_of(self.job_id)

        return wait_until(found, seconds=RECOVERY_SECONDS, what="the job has a driver")

    def actor(self, kind: str, name: str = "") -> Actor:
        """A live actor of that class, as soon as there is one; with a name, this one."""

        def found() -> Actor | None:
            self._not_over()
            alive = [actor for actor in self.service.actors() if kind in actor.kind and actor.pid > 0]
            fitting = [actor for actor in alive if not name or actor.name == name]
            return self.chance.choice(fitting) if fitting else None

        return wait_until(found, seconds=RECOVERY_SECONDS, what=f"an actor {kind} {name} is alive")

    def device_worker(self, group: str) -> int:
        """The process that trains a group, as the group's log names it."""
        told = re.findall(r"device worker: process (\d+)", self.service.client.log(self.job_id, group)[0])
        if not told:
            raise Missed(f"the log of {group} names no process yet")
        return int(told[-1])

    # what

    def harm(self, blow: Callable[[], Any], before: Position | None = None) -> None:
        """Strikes, and waits until the job has got further than it was when struck, or than `before`."""
        before = before or self.position()
        struck_at = time.monotonic()
        blow()
        wait_until(lambda: self._is_beyond(before), seconds=RECOVERY_SECONDS, what="the job goes on")
        self.recoveries.append(time.monotonic() - struck_at)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Sends a signal to a process that must be there."""
        try:
            os.kill(pid, number)
        except ProcessLookupError as error:
            raise Missed(f"process {pid} had ended") from error

    def position(self) -> Position:
        """The stage, and the steps of all groups that are under way."""
        job = self._not_over()
        groups = self.service.client.groups(self.job_id).groups
        return _RANKS[job.state], {group.id: group.step for group in groups if group.state == "running"}

    def _is_beyond(self, before: Position) -> bool:
        """Whether a later stage has begun, or every group that was under way is clearly further or done."""
        job = self.job
        if job.is_finished:
            return True
        rank, steps = before
        if job.state not in _BEFORE_STAGES and _RANKS[job.state] > rank:
            return True
        now = {group.id: group for group in self.service.client.groups(self.job_id).groups}
        return bool(steps) and all(
            now[group].state == "done" or now[group].step > step + CLEARLY for group, step in steps.items()
        )

    def _not_over(self) -> wire.Job:
        job = self.job
        if job.is_finished:
            raise Missed(f"{self.job_id} was {job.state} before it could be harmed")
        return job
