"""What a job's groups will cost in seconds, learned from the groups that finished before, of this job and others."""

from service.spec import JobSpec
from service.store import Store
from workers.launching.cost_model import CostModel, Step, learn


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


def _trained_like(theirs: JobSpec, ours: JobSpec) -> bool:
    """Whether groups of their job say something about the groups of ours."""
    theirs_method, our_method = (job.method.model_dump(exclude={"sharing"}) for job in (theirs, ours))
    return (theirs.backbone, theirs.resources, theirs_method) == (ours.backbone, ours.resources, our_method)
