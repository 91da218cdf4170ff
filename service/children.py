"""Jobs that go on from a finished one: new tasks join its groups, and only what they change is trained."""

import hashlib

from pydantic import Field

from service import lifecycle
from service.artifacts import TAKEN_OVER, JobFiles, plan_path
from service.errors import Conflict, JobNotFound, SpecError
from service.measurements import DATASETS, SIGNATURES
from service.reading import quoted, read_spec
from service.records import Job, PlanRow
from service.settings import Settings
from service.spec import MAX_TASKS, JobSpec, check_roots, parse_spec
from service.states import JobState, Verb
from service.store import Store
from service.submission import check_json
from workers.data.config import TaskConfig
from workers.spec import Spec

_WITH_GROUPS = (JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED)


class NewTasks(Spec):
    """Tasks that join the groups of a finished job."""

    tasks: list[TaskConfig] = Field(min_length=1, max_length=MAX_TASKS)
    """The new tasks, each under a name that the job does not have yet."""
    name: str | None = None
    """What the new job is called.  Left out: as the finished one."""


def add_tasks(
    store: Store, settings: Settings, job_id: str, text: bytes, *, json_only: bool, idempotency_key: str | None
) -> tuple[Job, bool]:
    """Accepts a job over a finished job's tasks and those that `NewTasks` in YAML or JSON names: (job, True), or (the
    earlier job, False) where the same key brought the same body before.

    Raises: SpecError for what is no such request; Conflict for a job that has no groups to join (yet).
    """
    if json_only:
        check_json(text)
    asked = read_spec(NewTasks, text)
    job = store.get_job(job_id)
    plan = _plan_to_join(job, store, JobFiles(settings.storage_place, job_id))
    spec = _with_tasks(job, plan, asked)
    try:
        check_roots(spec.model_copy(update={"tasks": asked.tasks}), settings.roots_of(job.tenant))
    except ValueError as error:
        raise SpecError(str(error)) from error
    return store.create_job(
        spec,
        tenant=job.tenant,
        idempotency_key=idempotency_key,
        body_sha256=hashlib.sha256(f"tasks for {job_id}\n".encode() + text).hexdigest(),
        parent=job_id,
        parent_plan=plan.number,
    )


def retry(store: Store, settings: Settings, job_id: str, *, idempotency_key: str | None) -> tuple[Job, bool]:
    """Accepts a job that is this finished one once more and takes over what it has left: (job, True), or (an earlier
    retry, False) where the same key brought it before, or one is under way.

    A retry that ended before it had taken anything over has left nothing: what it retried is retried instead.
    Conflict for a job of which nothing is missing, or that has not ended; and where the job that it goes on from is
    gone.
    """
    job = store.get_job(job_id)
    left = _with_files(store, settings, job)
    if left is not job:
        lifecycle.check(Verb.RETRY, job)
    if job.parent is not None:
        try:
            store.tenant_of(job.parent)
        except JobNotFound:
            raise Conflict(
                f"Job {job_id} goes on from {job.parent}, which is gone, so it cannot be retried. Clone it instead."
            ) from None
    return store.create_job(
        job.spec,
        tenant=job.tenant,
        idempotency_key=idempotency_key,
        body_sha256=hashlib.sha256(f"retry of {job_id}".encode()).hexdigest(),
        parent=job.parent,
        parent_plan=job.parent_plan,
        retry_of=left.id,
        origin=f"; it retries {left.id}",
        purpose=job.purpose,
    )


def _with_files(store: Store, settings: Settings, job: Job) -> Job:
    """The job, or of a retry that never came to take anything over the one whose files it was to take."""
    while job.retry_of is not None and not JobFiles(settings.storage_place, job.id).exists(TAKEN_OVER):
        try:
            job = store.get_job(job.retry_of)
        except JobNotFound:  # purged: there is nothing left to take over
            break
    return job


def _plan_to_join(job: Job, store: Store, files: JobFiles) -> PlanRow:
    """The plan that the job trained.  Conflict where it has none that tasks could join."""
    sharing = job.spec.trivial_sharing
    if sharing is not None:
        why, instead = {
            "alone": ("every task of it trains alone", "Submit the new tasks as a job of their own"),
            "all": ("all of its tasks train together", "Submit a job of all tasks, old and new"),
        }[sharing]
        raise Conflict(f"Job {job.id} has no groups that tasks could join: by its method {why}. {instead}.")
    if not job.is_finished:
        raise Conflict(f"Job {job.id} is {job.state}; tasks can join once it is finished. Wait for its end.")
    trained = next((plan for plan in store.plans(job.id) if plan.approved), None)
    if job.state not in _WITH_GROUPS or trained is None:
        raise Conflict(
            f"Job {job.id} is {job.state}: it left no trained groups that tasks could join. Submit a job of all tasks, "
            "old and new."
        )
    needed = (DATASETS, SIGNATURES, plan_path(trained.number))
    if missing := [path for path in needed if not files.exists(path)]:
        raise Conflict(
            f"Job {job.id} has lost {quoted(missing)}, which new tasks are held against. Submit a job of all tasks, "
            "old and new."
        )
    return trained


def _with_tasks(job: Job, plan: PlanRow, asked: NewTasks) -> JobSpec:
    """The finished job with more tasks.  SpecError names what does not fit.

    The settings are those of the plan that is joined.  A number of groups was asked for the tasks that there were; no
    short training runs decide again; and the baseline `all` would be a training over every task.
    """
    known = {task.name for task in job.spec.tasks}
    if clash := [task.name for task in asked.tasks if task.name in known]:
        problem = f"{quoted(clash)} given, but job {job.id} has tasks of that name. Call the new ones something else."
        raise SpecError(f"tasks: {problem}", (("tasks", problem),))
    if len(known) + len(asked.tasks) > MAX_TASKS:
        problem = (
            f"{len(asked.tasks)} given, and job {job.id} has {len(known)}; a job has at most {MAX_TASKS}. Give at most "
            f"{MAX_TASKS - len(known)}, or submit a job of its own."
        )
        raise SpecError(f"tasks: {problem}", (("tasks", problem),))
    own = job.spec.grouping
    grouping = plan.outline.settings.model_copy(
        update={"num_groups": "auto", "approve": own.approve, "arbitrate": False}
    )
    spec = job.spec.model_copy(
        update={
            "name": job.spec.name if asked.name is None else asked.name,
            "tasks": [*job.spec.tasks, *asked.tasks],
            "grouping": grouping,
            "baselines": tuple(baseline for baseline in job.spec.baselines if baseline != "all"),
        }
    )
    return parse_spec(spec.model_dump(mode="json"))
