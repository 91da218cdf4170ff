"""The device worker: a process with one device and one frozen backbone, which serves one work after another.

The driver imports this module to create the actor, and the driver has no use for torch; so the room that computes is
loaded by the actor's own process, when the actor starts.  A warm worker serves one driver after another, and orders are
told apart across all of them.
"""

import importlib
import os
import socket
import threading
from typing import Any

import ray

from workers import faults
from workers.failures import FailureClass
from workers.launching.board import Outcome
from workers.launching.ray_warm import claim_on, watch_claim
from workers.launching.work import Work
from workers.training.results import Progress

DELIVERY_SECONDS = 30.0
"""How long a finished work waits until its groups' actors (which may still be starting) have heard all of it."""


class DeviceWorker:
    """Runs works, one at a time, on a thread of its own; further slots keep the rest from waiting behind them."""

    def __init__(self, device: str, kept: tuple[str, float] | None = None) -> None:
        """`kept`: of a warm one, its name and how many seconds it may be free."""
        self._device = device
        self._name = kept[0] if kept is not None else ""
        self._claim: bytes | None = None
        self._clip_cache: dict[Any, Any] = {}
        self._stopped: set[str] = set()
        self._beats = 0
        self._groups: dict[str, Any] = {}
        self._one_work = threading.Lock()
        self._room = importlib.import_module("workers.launching.execute")
        if kept is not None:
            threading.Thread(target=watch_claim, args=kept, name="claim", daemon=True).start()

    def __repr__(self) -> str:
        return f"DeviceWorker({self._device})"

    def run(self, order: str, work: Work, groups: dict[str, Any], claim: bytes | None) -> Outcome:
        """Does a work and reports into its groups' actors; the outcome says how it ended.

        `claim`: of the driver that asks, which must be the one that holds the worker.
        """
        if self._name and claim_on(self._name) != claim:
            return Outcome("failed", error="the worker is another job's by now", fault=FailureClass.INFRASTRUCTURE)

        def should_stop() -> bool:
            self._beats += 1
            return order in self._stopped

        def report(progress: Progress) -> None:
            self._beats += 1
            groups[progress.group].report.remote(progress)

        def log(text: str) -> None:
            self._beats += 1
            for group in groups.values():
                group.log.remote(text)

        self._groups = groups
        log(f"device worker: process {os.getpid()} on {socket.gethostname()}")
        with self._one_work:
            faults.arm(work.faults, work.faults_ledger)
            if claim != self._claim and not work.backbone.stays_the_same:
                self._clip_cache.clear()  # every job finds the weights as they are when it begins
            self._claim = claim
            outcome = self._room.attempt(
                lambda: self._room.execute(
                    work,
                    clip_cache=self._clip_cache,
                    device=self._device,
                    should_stop=should_stop,
                    report=report,
                    log=log,
                )
            )
            if outcome.kind != "failed":  # a device that broke may answer nothing any more
                self._room.give_back_memory(self._device)
        told = [group.state.remote() for group in groups.values()]  # an actor answers in order: all before is heard
        ray.wait(told, num_returns=len(told), timeout=DELIVERY_SECONDS)
        return outcome

    def stop(self, order: str) -> None:
        """Asks a work to end, whether it runs already or not yet."""
        self._stopped.add(order)

    def beats(self) -> tuple[int, str]:
        """Signs of life so far, and the node that it runs on."""
        return self._beats, ray.get_runtime_context().get_node_id()

    def adopt(self, group: str, actor: Any) -> None:
        """A group of the present work has a new actor."""
        self._groups[group] = actor
