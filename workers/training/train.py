"""The one training loop: for the shared prompt, a group, a task alone, and several groups at once on one device.

It knows neither Ray nor jobs nor HTTP.  Groups whose methods fit into one forward pass train in one; a group's
result does not depend on which others share its passes, beyond rounding.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F

from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import TaskData
from workers.training.batches import draw_batch, to_pixels
from workers.training.config import TrainConfig
from workers.training.distributed import Ranks
from workers.training.forward import ClassLists, joint_logits
from workers.training.results import GroupResult, Progress
from workers.training.run import GroupRun, GroupWork


class Stopped(Exception):
    """The run was asked to stop and has written a checkpoint for every unfinished group."""


def train(
    clip: FrozenCLIP,
    groups: Sequence[GroupWork],
    data: Mapping[str, TaskData],
    config: TrainConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
    ranks: Ranks | None = None,
    on_step: Callable[[GroupRun], None] | None = None,
    evaluate: bool = True,
) -> dict[str, GroupResult]:
    """Trains every group to its end and evaluates its tasks; returns the results by group id.

    A group whose directory holds a result is not trained again; one with a checkpoint goes on from it.
    `should_stop` is asked before every step and evaluation batch; when it turns true, unfinished groups are
    checkpointed and `Stopped` is raised.  `on_step` sees a group after every step (and once before the first).  With
    `evaluate` off nothing is scored or written but checkpoints.  A loss that is no number raises ValueError with
    task, step and learning rate.
    """
    ranks = ranks or Ranks()
    lists = ClassLists(clip, data)
    done: dict[str, GroupResult] = {}
    runs: list[GroupRun] = []
    for work in groups:
        if evaluate and (result := GroupResult.read(work.directory)):
            done[work.id] = result
            continue
        run = GroupRun(clip, work, data, config)
        run.resume()
        _refuse_crowded_context(clip, run, lists)
        runs.append(run)
        if ranks.writes:
            report(run.progress())
        if on_step:
            on_step(run)

    def check() -> None:
        if ranks.world_size == 1 and should_stop():  # ranks stop together, between steps
            raise Stopped

    try:
        while runs:
            for run in runs:
                if evaluate and ranks.writes and run.is_validation_due:
                    run.validate(clip, lists, check)
            for run in [run for run in runs if run.is_done]:
                if evaluate and ranks.writes:
                    done[run.work.id] = run.finish(clip, lists, check)
                    report(run.progress())
                runs.remove(run)
            if runs and ranks.any(should_stop(), clip.device):
                raise Stopped
            for bucket in _buckets(runs):
                train_step(clip, bucket, lists, ranks)
            for run in runs:
                if on_step:
                    on_step(run)
                if ranks.writes:
                    report(run.progress())
                    if run.step % config.checkpoint_every == 0 and not run.is_done:
                        run.save()
    except Stopped:
        if ranks.writes:
            for run in runs:
                if run.num_steps:
                    run.save()
        raise
    return done


def train_step(clip: FrozenCLIP, runs: Sequence[GroupRun], lists: ClassLists, ranks: Ranks) -> None:
    """One step of groups that fit into one forward pass: batch, loss, backward, optimiser."""
    started = time.perf_counter()

    # Next batch: every task's share, in the order of groups and tasks.
    batches = [
        draw_batch(
            run.data[task],
            run.config,
            run.step,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        for run in runs
        for task in run.work.tasks
    ]

    # Loss: a task's mean over its images on all ranks, a group's sum over its tasks.
    logits = joint_logits(
        clip,
        [run.method for run in runs],
        lists,
        to_pixels(clip, batches),
        [len(batch.labels) for batch in batches],
    )
    losses = [
        F.cross_entropy(task_logits, torch.from_numpy(batch.labels).to(clip.device), reduction="sum")
        * (batch.weight / batch.global_count)
        for task_logits, batch in zip(logits, batches, strict=True)
    ]

    # Backward: groups own disjoint parameters, so one backward of the sum gives every group its own gradient.
    owners = [run for run in runs for _ in run.work.tasks]
    scaled = [run.scaler.scale(loss) for run, loss in zip(owners, losses, strict=True)]
    torch.stack(scaled).sum().backward()

    # Step: with several ranks, gradients and losses are sums over the ranks first.
    told = torch.stack([loss.detach() for loss in losses])
    gradients = [parameter.grad for run in runs for parameter in run.method.parameters() if parameter.grad is not None]
    ranks.sum_in_place([*gradients, told])
    values = iter(told.tolist())
    losses_of = [{task: next(values) for task in run.work.tasks} for run in runs]
    for run, of_tasks in zip(runs, losses_of, strict=True):
        run.refuse_non_finite(of_tasks)
    seconds = time.perf_counter() - started
    share = sum(run.images_per_step for run in runs)
    for run, of_tasks in zip(runs, losses_of, strict=True):
        run.apply_gradients(of_tasks, seconds * run.images_per_step / share)


def _buckets(runs: Sequence[GroupRun]) -> list[list[GroupRun]]:
    """Groups by forward pass."""
    buckets: dict[tuple, list[GroupRun]] = {}
    for run in runs:
        if not run.is_done:
            buckets.setdefault(run.method.batch_key, []).append(run)
    return list(buckets.values())


def _refuse_crowded_context(clip: FrozenCLIP, run: GroupRun, lists: ClassLists) -> None:
    """Prompts and the longest class sentence must fit into the text tower's context."""
    num_tokens = run.method.edits().text.num_tokens
    for task in run.work.tasks:
        longest = int(lists[task].end_R.max()) + 1
        if longest + num_tokens > clip.text.context_length:
            raise ValueError(
                f"Task {task!r}: its longest class sentence takes {longest} tokens and the prompts {num_tokens}, "
                f"but the text "
                f"tower has {clip.text.context_length} places. Shorten class names or template, or use fewer prompt "
                f"tokens."
            )
