"""Measuring tasks at the prompts that a profile stored: more microbatches where there are too few to tell groups from
noise, and tasks that the profile did not have.

A measuring is an artifact in a folder of its own until it is whole, so an interrupted one goes on where it stopped.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from grouping.plan import Plan, plan_from
from grouping.verdict import Verdict
from service.measurements import SIGNATURES, read_measurement, task_costs
from service.stages.aside import aside
from service.stages.run import JobRun
from service.stages.tries import run_alone
from service.stages.validate import datasets, fingerprints, profiled_method
from workers.launching.work import GroupUnit, MeasureWork
from workers.storage import move, remove_tree
from workers.training.config import LARGEST_SIGNATURES


def measure_tasks(run: JobRun, tasks: Sequence[str], *, microbatches: int, stored: Path, folder: str) -> Path:
    """Measures tasks at stored prompts; the path of their signatures.  StageFailed where that cannot be done."""
    method = profiled_method(run.spec)
    directory = run.files.path(folder)

    common = run.common()
    common["tasks"] = tuple(task for task in run.spec.tasks if task.name in tasks)
    work = MeasureWork(
        **common,
        groups=(GroupUnit("measure", "measure", tuple(tasks), method),),
        fingerprints=fingerprints(run),
        profile=run.spec.profile.model_copy(update={"microbatches": microbatches}),
        training=run.spec.training,
        method=method,
        directory=directory,
        stored=stored,
    )
    run_alone(run, work, said="The tasks could not be measured: ")
    return directory / Path(SIGNATURES).name


def measure_more(run: JobRun) -> None:
    """Takes more microbatches of all tasks while groups cannot be told from noise, as far as there are any to take."""
    signatures = run.files.path(SIGNATURES)
    while (verdict := _verdict(run)) is not None and verdict.kind == "too_noisy" and verdict.needed is not None:
        found = read_measurement(run.files)
        have, wanted = found.num_microbatches, math.ceil(verdict.needed / found.num_snapshots)
        limit, why = _limit(run, have)
        num = min(wanted, limit)
        if num <= have:
            run.event("too_noisy", f"{verdict.sentence} No more were taken: {why}.", level="warning")
            return
        run.event(
            "measuring_more",
            f"Groups cannot be told from noise with {have} microbatches a snapshot: all tasks are measured again at "
            f"the same prompts, with {num}.",
            data={"microbatches": num, "needed": verdict.needed},
        )
        tasks = [task.name for task in run.spec.tasks]
        more = measure_tasks(run, tasks, microbatches=num, stored=signatures, folder=f"profile/microbatches-{num}")
        run.check()
        move(more, signatures, "signatures")
        remove_tree(more.parent)
        after = _verdict(run)
        assert after is not None
        run.event(
            "measured_more",
            f"With {num} microbatches a snapshot instead of {have}, R went from {_ratio(verdict)} to {_ratio(after)}. "
            f"{after.sentence}",
            data={
                "before": {"microbatches": have, **_figures(verdict)},
                "after": {"microbatches": num, **_figures(after)},
            },
        )


def _verdict(run: JobRun) -> Verdict | None:
    """What the gradients say; nothing is planned with it."""

    def plan() -> Plan:
        costs = task_costs(run.files, run.spec.training.batch_size)
        return plan_from(read_measurement(run.files), run.spec.grouping, costs=costs, second_opinion=False)

    return aside(run, plan).verdict


def _limit(run: JobRun, have: int) -> tuple[int, str]:
    """The most microbatches a snapshot that can be had, and in words what sets that bound."""
    config = run.spec.profile
    sizes = {name: found["num_train"] for name, found in datasets(run).items()}
    smallest = min(sizes, key=lambda name: sizes[name])
    bounds = [
        (config.max_microbatches, f"profile.max_microbatches={config.max_microbatches} allows no more"),
        (sizes[smallest], f"{smallest} has {sizes[smallest]} training images, at least one for each"),
        (
            -(-max(sizes.values()) // config.microbatch_size),
            f"{have} microbatches of up to {config.microbatch_size} images hold the training images of every task "
            "already, and only more images or snapshots would tell more",
        ),
        (
            LARGEST_SIGNATURES * have // run.files.size(SIGNATURES),
            f"more than {LARGEST_SIGNATURES // 1024**3} GiB of signatures are not kept",
        ),
    ]
    return min(bounds, key=lambda bound: bound[0])


def _ratio(verdict: Verdict) -> str:
    return "unknown" if verdict.detection is None else f"{verdict.detection:.2f}"


def _figures(verdict: Verdict) -> dict[str, float | str | None]:
    return {
        "verdict": verdict.kind,
        "detection": verdict.detection,
        "smallest_gap": verdict.smallest_gap,
        "needed": verdict.needed,
    }
