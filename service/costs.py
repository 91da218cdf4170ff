"""What a job's groups will cost in seconds and in memory, learned from what ran before, of this job and others."""

import math

from service.spec import JobSpec
from service.store import Store
from workers.launching.cost_model import CostModel, Step, learn
from workers.launching.footprint import Footprint


def learned_costs(store: Store, spec: JobSpec) -> CostModel | None:
    """The model for groups of this job: from those that trained the same method on the same backbone and devices.

    None where there are none; then a group costs what its images say.
    """
    steps = [
        Step(group.images_per_step, group.texts_per_step, group.seconds / group.num_steps)
        for job, group in store.finished_groups()
        if group.seconds is not None and job.is_readable and _trained_like(job.spec, spec)
    ]
    return learn(steps)


def learned_footprints(store: Store, job_id: str, spec: JobSpec) -> tuple[list[Footprint], float]:
    """What passes of such groups took of their devices' memory, and the bytes that are there for a process of this job
    (infinite: nobody knows).

    Before any such group has finished, what the job's own shared prompt took stands for them: it sends all images and
    class sentences of the job through the backbone and back.
    """
    shared = [Footprint(**each.memory) for each in store.groups(job_id) if each.kind == "shared" and each.memory]
    passes = [
        Footprint(**group.memory)
        for job, group in store.finished_groups()
        if group.memory and job.is_readable and _trained_like(job.spec, spec)
    ]
    return passes or shared, next((each.available for each in (*shared, *reversed(passes))), math.inf)


def _trained_like(theirs: JobSpec, ours: JobSpec) -> bool:
    """Whether groups of their job say something about the groups of ours."""
    theirs_method, our_method = (job.method.model_dump(exclude={"sharing"}) for job in (theirs, ours))
    return (theirs.backbone, theirs.resources, theirs_method) == (ours.backbone, ours.resources, our_method)
