"""The one training loop: for the shared prompt, a group, a task alone, and several groups at once on one device.

It knows neither Ray nor jobs nor HTTP.  Groups whose methods fit into one forward pass train in one; a group's
result does not depend on which others share its passes, beyond rounding.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch

from workers import faults
from workers.clip.frozen import FrozenCLIP
from workers.data.dataset import TaskData
from workers.methods.build import build_method
from workers.methods.config import MethodConfig
from workers.methods.method import Method
from workers.training.batches import TaskBatch, draw_batch
from workers.training.config import TrainConfig, can_split
from workers.training.distributed import Ranks
from workers.training.features import FeatureCache, cached_outputs
from workers.training.forward import ClassLists, Outputs, joint_outputs
from workers.training.kinds import image_losses
from workers.training.pairwise import batch_pairwise_loss
from workers.training.results import GroupResult, Progress
from workers.training.run import GroupRun, GroupWork, task_infos

SMALLEST_ROOM = 8
"""Places that prompts must leave to a caption: it is cut to fit, but some words must remain."""


class Stopped(Exception):
    """The run was asked to stop and has written a checkpoint for every unfinished group that had begun."""


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
    evaluate: Literal["test", "validation", "none"] = "test",
    features: FeatureCache | None = None,
    microbatches: int = 1,
) -> dict[str, GroupResult]:
    """Trains every group to its end and evaluates its tasks; returns the results by group id.

    A group whose directory holds a result is not trained again; one with a checkpoint goes on from it.
    `should_stop` is asked before every step and every batch that is evaluated or encoded for the cache; when it turns
    true, unfinished groups are checkpointed and `Stopped` is raised.  `on_step` sees a group after every step (and once
    before the first).
    `evaluate` says what is scored: with `validation` the test images are not looked at and each group leaves the scores
    of its validation images; with `none` no image is, and nothing is written but checkpoints.  `features` keeps what
    feature-side methods computed for the next call.  `microbatches` takes every batch in so many parts, one after
    another: less memory, the same result up to rounding.  ValueError for more than one where a loss looks at the batch
    as a whole, and for a loss or a gradient that is no number, with task, step and learning rate.
    """
    ranks = ranks or Ranks()
    if microbatches > 1 and not can_split(config, [task.kind for task in data.values()]):
        raise ValueError(
            f"microbatches={microbatches}: a contrastive loss compares all images of a batch and cannot be taken in "
            "parts. Use a smaller training.batch_size."
        )
    lists = ClassLists(clip)
    features = features or FeatureCache(clip)
    done: dict[str, GroupResult] = {}
    runs: list[GroupRun] = []

    def check() -> None:
        if should_stop() and ranks.world_size == 1:  # ranks stop together, between steps
            raise Stopped

    for work in groups:
        if evaluate == "test" and (result := GroupResult.read(work.directory)):
            done[work.id] = result
            continue
        run = GroupRun(clip, work, data, config, lists, features, check)
        _refuse_crowded_context(clip, run.method, lists)
        if not run.resume():
            run.fit()
        runs.append(run)
        if ranks.writes:
            report(run.progress())
        if on_step:
            on_step(run)

    try:
        while runs:
            for run in runs:
                if evaluate != "none" and ranks.writes and run.is_validation_due:
                    run.validate(check)
            for run in [run for run in runs if run.is_done]:
                if evaluate == "test" and ranks.writes:
                    done[run.work.id] = run.finish(check)
                if evaluate != "none" and ranks.writes:
                    report(run.progress())
                if evaluate == "validation" and ranks.writes:
                    run.finish_validation(check)
                runs.remove(run)
            if runs and ranks.any(should_stop(), clip.device):
                raise Stopped
            for bucket in _buckets(runs):
                train_step(clip, bucket, lists, ranks, microbatches)
            faults.point("train.step")
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


def check_method(clip: FrozenCLIP, config: MethodConfig, data: Mapping[str, TaskData]) -> None:
    """ValueError for a method that cannot be built for this backbone and these tasks: together if all of them share it,
    else one by one, since who shares is not known yet."""
    lists = ClassLists(clip)
    infos = task_infos(data)
    for tasks in [infos] if getattr(config, "sharing", None) == "all" else [[info] for info in infos]:
        method = build_method(config, clip, tasks, seed=0)
        _refuse_crowded_context(clip, method, lists)
        with torch.no_grad():
            if method.edits(method.passes[0]).text.num_tokens == 0:
                return  # the next task's would be built of the same shapes, at the price of its parameters


def train_step(
    clip: FrozenCLIP, runs: Sequence[GroupRun], lists: ClassLists, ranks: Ranks, microbatches: int = 1
) -> None:
    """One step of groups that fit into one forward pass: batch, loss, backward, optimiser."""
    started = time.perf_counter()
    losses_of_parts = []
    for part in range(microbatches):
        # Next batch: every task's share, in the order of groups and tasks.  A rank's parts are taken as further ranks.
        batches = [
            draw_batch(
                run.data[task],
                run.config,
                run.step,
                rank=ranks.rank + part * ranks.world_size,
                world_size=ranks.world_size * microbatches,
            )
            for run in runs
            for task in run.work.tasks
        ]

        # Loss: a task's mean over its images on all ranks, a group's sum over its tasks.
        if len(runs) == 1 and runs[0].method.config.feature_side:
            outputs = cached_outputs(runs[0].method, runs[0].features, batches)
        else:
            outputs = joint_outputs(clip, [run.method for run in runs], lists, batches)
        owners = [run for run in runs for _ in run.work.tasks]
        losses = [
            _task_loss(run, batch, output) * (batch.weight / batch.global_count)
            for run, batch, output in zip(owners, batches, outputs, strict=True)
        ]

        # Backward: groups own disjoint parameters, so one backward of the sum gives every group its own gradient.
        scaled = [run.scaler.scale(loss) for run, loss in zip(owners, losses, strict=True)]
        torch.stack(scaled).sum().backward()
        losses_of_parts.append(torch.stack([loss.detach() for loss in losses]))

    # Step: with several ranks, gradients and losses are sums over the ranks first.
    told = torch.stack(losses_of_parts).sum(dim=0)
    gradients = [_gradients(run) for run in runs]
    ranks.sum_in_place([*(gradient for of_run in gradients for gradient in of_run), told])
    norms = torch.stack([torch.nn.utils.get_total_norm(of_run) for of_run in gradients])
    values = iter(torch.cat([told, norms]).tolist())
    losses_of = [{task: next(values) for task in run.work.tasks} for run in runs]
    for run, of_tasks, norm in zip(runs, losses_of, values, strict=True):
        run.refuse_non_finite(of_tasks, norm)
    seconds = time.perf_counter() - started  # reading the losses waited for the device
    share = sum(run.images_per_step for run in runs)
    for run, of_tasks in zip(runs, losses_of, strict=True):
        run.apply_gradients(of_tasks, seconds * run.images_per_step / share)


def _gradients(run: GroupRun) -> list[torch.Tensor]:
    return [parameter.grad for parameter in run.method.parameters() if parameter.grad is not None]


def _task_loss(run: GroupRun, batch: TaskBatch, output: Outputs) -> torch.Tensor:
    """The sum over a batch of one task."""
    kind = run.data[batch.task].kind
    labels = torch.from_numpy(batch.labels).to(output.logits_BK.device)
    loss = image_losses(kind, output.logits_BK, labels).sum()
    if (config := run.config.pairwise) is None:
        return loss
    image_BE, text_KE = run.method.adapt(batch.task, output.image_BE, output.text_KE)
    pairwise = batch_pairwise_loss(kind, image_BE, text_KE, labels, config) * len(labels)
    if kind == "retrieval" and config.replaces_contrastive:
        return pairwise
    return loss + config.weight * pairwise


def _buckets(runs: Sequence[GroupRun]) -> list[list[GroupRun]]:
    """Groups by forward pass."""
    buckets: dict[object, list[GroupRun]] = {}
    for run in runs:
        if not run.is_done:
            buckets.setdefault(run.batch_key, []).append(run)
    return list(buckets.values())


def _refuse_crowded_context(clip: FrozenCLIP, method: Method, lists: ClassLists) -> None:
    """Prompts and the longest class sentence must fit into the text tower's context."""
    for tasks in method.passes:
        with torch.no_grad():
            num_tokens = method.edits(tasks).text.num_tokens
        for task in tasks:
            room = clip.text.context_length - num_tokens
            if not method.infos[task].class_names and room < SMALLEST_ROOM:
                raise ValueError(
                    f"Task {task!r}: the prompts take {num_tokens} of the text tower's {clip.text.context_length} "
                    f"places and leave {room} for a caption; at least {SMALLEST_ROOM} are needed. Use fewer prompt "
                    "tokens."
                )
            for template in method.templates(task) if method.infos[task].class_names else ():
                longest = int(lists[method.infos[task].class_names, template].end_R.max()) + 1
                if longest + num_tokens > clip.text.context_length:
                    raise ValueError(
                        f"Task {task!r}: its longest class sentence takes {longest} tokens and the prompts "
                        f"{num_tokens}, but the text tower has {clip.text.context_length} places. Shorten class names "
                        f"or template, or use fewer prompt tokens."
                    )
