"""A group over several devices: a Ray Train run whose ranks each do the same work on their share of every batch.

Started by the group's actor.  Ray Train brings up the processes and torch.distributed; progress, wishes and outcome go
through the group's actor, and checkpoints through the training room, because Ray Train's own reports are rate-limited
and its checkpoints are not committed when `report` returns.  The group's actor and Ray Train's controller import this
module, one after the other, and compute nothing: the room that computes is loaded by the ranks.
"""

import importlib
import re
import time
from contextlib import suppress
from secrets import token_hex
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from workers.failures import FailureClass, classify
from workers.launching.board import Outcome
from workers.launching.placement import beside_me
from workers.launching.ray_group import NAMESPACE, group_actor_name
from workers.launching.ray_storage import ray_storage
from workers.launching.work import PassWork
from workers.storage import make_folder, remove_tree
from workers.training.distributed import Ranks
from workers.training.results import Progress

STOP_POLL_SECONDS = 0.5
"""How often rank 0 asks the group's actor whether it should stop."""


def train_on_ranks(work: PassWork, job: str, group: str, device: str) -> Outcome:
    """Trains `work` on `work.devices` ranks and returns how it ended.  Blocks until then."""
    assert len(work.groups) == 1
    directory = work.directories[group]
    make_folder(directory)
    notes = directory / "ray-train"
    outcomes: Any = ray.remote(RankOutcomes).options(num_cpus=0, scheduling_strategy=beside_me()).remote()
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"work": work, "job": job, "group": group, "device": device, "outcomes": outcomes},
        torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
        scaling_config=ScalingConfig(num_workers=work.devices, use_gpu=device == "cuda"),
        run_config=RunConfig(
            name=safe_run_name(job, group),
            # a folder per try: Ray Train silently resumes a run of the same name and place, and we resume ourselves
            **ray_storage(notes / f"attempt-{work.attempt}-{token_hex(4)}"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        first: Any = ray.get(outcomes.first_failure.remote())
        short = next(iter(str(error).strip().splitlines()), "")
        return first or Outcome(
            "failed",
            error=f"the ranks could not start or are gone ({type(error).__name__}: {short}).",
            fault=_failure(error),
            traceback=str(error),
        )
    finally:
        with suppress(OSError):  # of tries whose actor died, too; nobody reads them
            remove_tree(notes)
    ended: Any = ray.get(outcomes.of_rank_zero.remote())
    return ended


class RankOutcomes:
    """Actor: how each rank ended, because Ray Train hands back no values of the ranks."""

    def __init__(self) -> None:
        self._outcomes: dict[int, Outcome] = {}

    def put(self, rank: int, outcome: Outcome) -> None:
        self._outcomes[rank] = outcome

    def first_failure(self) -> Outcome | None:
        return next((outcome for outcome in self._outcomes.values() if outcome.kind == "failed"), None)

    def of_rank_zero(self) -> Outcome:
        return self._outcomes[0]


def _failure(error: Exception) -> FailureClass:
    """Of what Ray Train raises: the class of what befell a rank, where that is known; without one, ranks are gone."""
    inner = [error, *getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    found = {classify(each) for each in inner if each is not None}
    told = (FailureClass.OUT_OF_MEMORY, FailureClass.PREEMPTION, FailureClass.STORAGE)
    return next((each for each in told if each in found), FailureClass.INFRASTRUCTURE)


def safe_run_name(job: str, group: str) -> str:
    """`<job>/<group>` as a folder name: Ray Train names its folder after the run."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", f"{job}-{group}")


def _rank(config: dict[str, Any]) -> None:
    """One rank: the same work, the same seed, its share of every batch."""
    work: PassWork = config["work"]
    context = ray.train.get_context()
    ranks = Ranks(rank=context.get_world_rank(), world_size=context.get_world_size())
    actor = ray.get_actor(group_actor_name(config["job"], config["group"]), namespace=NAMESPACE)
    room = importlib.import_module("workers.launching.execute")
    asked_at, wish = 0.0, False

    def should_stop() -> bool:
        nonlocal asked_at, wish
        if not wish and time.monotonic() - asked_at > STOP_POLL_SECONDS:
            asked_at = time.monotonic()
            wish = bool(ray.get(actor.stop_requested.remote()))
        return wish

    def report(progress: Progress) -> None:
        if ranks.rank == 0:
            actor.report.remote(progress)

    def log(text: str) -> None:
        actor.log.remote(f"rank {ranks.rank}: {text}")

    outcome = room.attempt(
        lambda: room.execute(
            work,
            clip_cache={},
            device=config["device"],
            should_stop=should_stop,
            report=report,
            log=log,
            ranks=ranks,
        )
    )
    ray.get(config["outcomes"].put.remote(ranks.rank, outcome))
    if outcome.kind == "failed":
        raise RuntimeError(outcome.error)  # tears the other ranks down, which wait for this one in a collective
