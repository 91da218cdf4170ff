"""One trial of a search, in a process of its own that Ray Tune starts and uses again for the trials after it."""

import importlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from workers.launching.board import Outcome
from workers.launching.ray_group import NAMESPACE, group_actor_name
from workers.launching.ray_settings import setting_of
from workers.launching.trials import SCRATCH, Validations, trial_passes
from workers.launching.work import SearchWork
from workers.storage import write
from workers.training.results import Progress

FAILURE = "failure.txt"
"""Holds, in a trial's scratch folder, why it failed: what Ray hands on is a traceback."""
VALIDATION = "validation"
"""Key of the validation's number in a report: how far the run is, whatever its steps and wherever it was resumed."""
STOP_POLL_SECONDS = 0.5
"""How often a trial asks the search's actor whether it should stop."""

_clip_cache: dict[Any, Any] = {}
"""The backbone stays for the trials that this process runs next."""


class TrialFailed(RuntimeError):
    """A trial cannot go on; the reason lies in its scratch folder, where the search finds it."""


def run_trial(work: SearchWork, config: Mapping[str, Any], device: str) -> None:
    """One trial in its own process: trains the groups under its setting and reports every validation to Tune."""
    number, setting = setting_of(config)
    room = importlib.import_module("workers.launching.execute")  # brings torch, which the search's own actor needs not
    actor = ray.get_actor(group_actor_name(work.job, work.groups[0].id), namespace=NAMESPACE)
    actor.log.remote(f"trial {number}: process {os.getpid()} on {socket.gethostname()}")
    heard = Validations(list(work.members))
    started = time.monotonic()
    asked_at, wish = 0.0, False

    def should_stop() -> bool:
        nonlocal asked_at, wish
        if not wish and time.monotonic() - asked_at > STOP_POLL_SECONDS:
            asked_at = time.monotonic()
            wish = bool(ray.get(actor.stop_requested.remote()))
        return wish

    def tell(found: dict[str, float] | None) -> None:
        if found is not None:
            part = found["step"] / found["num_steps"] if found["num_steps"] else 1.0
            validation = max(1, round(part * work.training.validations))
            tune.report(found | {VALIDATION: validation, "seconds": time.monotonic() - started})

    def report(progress: Progress) -> None:
        tell(heard.hear(progress))

    def run() -> None:
        for work_of_pass in trial_passes(work, number, setting):
            room.execute(
                work_of_pass,
                clip_cache=_clip_cache,
                device=device,
                should_stop=should_stop,
                report=report,
                log=lambda text: actor.log.remote(f"trial {number}: {text}"),
            )
        tell(heard.last())

    outcome: Outcome = room.attempt(run)
    if outcome.kind == "failed":
        actor.log.remote(f"trial {number}: {outcome.traceback}")
        folder = work.directory / SCRATCH / str(number)
        write(folder / FAILURE, outcome.error.encode())
        raise TrialFailed(outcome.error)
