"""What travels over HTTP, as the API sends it and the client reads it.

Torch-free, SQL-free and small, so that a client starts at once.  The docstrings are the help texts of the API's pages.
A newer service may send fields that an older client does not know: they are ignored.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WrapValidator

from service.message import Message
from service.spec import JobSpec
from service.states import TERMINAL, Desired, JobState, Verb
from service.wire_gains import Gain
from service.wire_queue import QueuePlace
from service.wire_why import PlanFacts, TaskReason
from workers.data.config import TaskKind
from workers.failures import FailureClass


class JobSummary(Message):
    """A job as listings show it."""

    id: str
    """`job-` and 12 characters; later jobs sort after earlier ones."""
    name: str
    """As its user called it; need not be unique."""
    tenant: str
    """Whose job it is."""
    state: JobState
    """Where it stands."""
    desired: Desired
    """What its user wants: run, pause or cancel.  The state follows."""
    reason: str | None
    """Why it is in this state, where there is something to say."""
    attempt: int
    """How many times a driver was started for it."""
    num_tasks: int
    """Tasks in the job."""
    method: str
    """What is trained, e.g. `mmap`."""
    created_at: datetime
    """When it was accepted."""
    started_at: datetime | None
    """When its first attempt began."""
    finished_at: datetime | None
    """When it reached a state that never changes."""
    priority: int = 0
    """Jobs of a higher priority start first."""
    failure: FailureClass | None = None
    """The class of what ended it, or its newest attempt."""
    archived_at: datetime | None = None
    """When it was put away."""
    deleted_at: datetime | None = None
    """When it was deleted."""

    @property
    def is_finished(self) -> bool:
        return self.state in TERMINAL


class Plan(Message):
    """That a plan exists, and whether it may be trained."""

    number: int
    """Counts from 0; approve it by this number."""
    approved: bool
    """Groups train only under an approved plan."""
    created_at: datetime
    """When it was made."""
    approved_at: datetime | None
    """When a person, or the job's settings, approved it."""


def _as_it_is(spec: Any, check: Callable[[Any], JobSpec]) -> JobSpec:
    return spec if isinstance(spec, JobSpec) else check(spec)


class Job(JobSummary):
    """One request over many tasks, and where it stands."""

    spec: Annotated[JobSpec, WrapValidator(_as_it_is)]  # one that was accepted is not judged again on every look
    """The job as it was understood, defaults filled in."""
    parent: str | None
    """The finished job that this one goes on from."""
    parent_plan: int | None = None
    """The plan of the parent that this job begins with."""
    retry_of: str | None = None
    """The finished job that this one takes over from: the same job, once more."""
    verbs: list[Verb] = Field(default_factory=list)
    """What can be asked of it now: the verbs that would do something."""
    purge_at: datetime | None = None
    """When a deleted job goes for good; until then it can be restored."""
    storage_bytes: int = 0
    """What its files take, as last measured."""
    submission_id: str | None
    """The Ray Job of the newest attempt, as the Ray dashboard calls it."""
    failures: int
    """Attempts that died; pauses and restarts of the service are none."""
    stage_times: dict[str, float]
    """Stage -> seconds spent so far."""
    progress: dict[str, Any]
    """What the present stage tells of itself."""
    queue: QueuePlace | None = None
    """Where it stands in the queue and what it waits for; null unless it waits for its start."""
    deadline_at: datetime | None = None
    """From then on it is given up; known once it has started."""
    plan: Plan | None
    """The plan that trains, else the newest, once there is one."""
    updated_at: datetime
    """When anything was last written about it."""


class JobPage(Message):
    """Jobs, newest first."""

    jobs: list[JobSummary]
    """At most `limit` of them."""
    next: str | None
    """Pass it as `after` for the following page; null: this was the last."""


class Event(Message):
    """Something that happened to a job."""

    seq: int
    """Counts from 1 without gaps; also the `id` of the server-sent event."""
    kind: str
    """`state`, `wish`, `plan`, ..."""
    message: str
    """For people."""
    level: str
    """info, warning or error."""
    data: dict[str, Any]
    """For programs, e.g. `{"from": "GROUPING", "to": "TRAINING"}`."""
    attempt: int
    """The attempt it happened in; 0 before the first."""
    created_at: datetime
    """When it happened."""


class EventPage(Message):
    """Events, oldest first."""

    events: list[Event]
    """Those with a number above `after`."""


class Group(Message):
    """Tasks that train together, and how far they are."""

    id: str
    """`g1`, ... for the plan; `all`, `alone-<task>`, `zero-shot` for baselines; `shared`; `try-...` for trials."""
    kind: Literal["plan", "all", "alone", "zero_shot", "shared", "trial"]
    """What it is there for."""
    tasks: list[str]
    """Its tasks."""
    state: Literal["waiting", "running", "done", "failed", "stopped"]
    """Where it stands."""
    step: int
    """Optimiser steps done."""
    num_steps: int
    """Optimiser steps in all; 0 where nothing trains."""
    losses: dict[str, float]
    """Task -> training loss of the newest report."""
    reason: str | None
    """Why it failed or stopped."""
    worker: str | None
    """The device worker that trains it."""
    parameters: dict[str, int]
    """Trained numbers: group-shared, task-specific and in all."""
    seconds: float | None
    """How long its training took."""
    peak_bytes: int | None = None
    """The most memory that the pass in which it trained held at a time, on its device; null until it is done."""
    cohesion: float | None = None
    """Mean similarity of its tasks, for groups of the plan."""
    why: str | None = None
    """Why these tasks are together, in a sentence."""
    updated_at: datetime
    """When it last reported."""


class Groups(Message):
    """All groups of a job, those of the plan first, and why every task is where it is."""

    groups: list[Group]
    """Empty until the job has a plan."""
    tasks: list[TaskReason]
    """Empty until the job has a plan."""
    plan: PlanFacts | None = None
    """How the plan came about and how sure it is; null until there is one."""


class Similarity(Message):
    """How the tasks agree.  Matrices are in the order of `task_names`; null where no gradient was needed."""

    task_names: list[str]
    """Rows and columns."""
    order: list[str]
    """The same names, similar ones side by side (the leaves of the dendrogram)."""
    similarity: list[list[float | None]] | None
    """What the groups were read from; null for tasks without a usable gradient."""
    standard_error: list[list[float | None]] | None = None
    """How sure each entry is."""
    cosine: list[list[float | None]] | None = None
    """Plain mean cosines, for comparison."""
    reliability: list[float | None] | None = None
    """Per task: how much of its signature is signal."""
    together: list[list[float | None]] | None = None
    """Co-association: share of resamples in which two tasks share a group; null until the review is there."""
    low: list[list[float | None]] | None = None
    """2.5 % quantile of each similarity over the resamples."""
    high: list[list[float | None]] | None = None
    """97.5 % quantile."""


class Metric(Message):
    """One number of one step."""

    id: int
    """Grows over the job: the cursor."""
    group: str
    """Its group."""
    task: str | None
    """Null: a number of the whole group."""
    step: int
    """Optimiser step."""
    name: str
    """`loss`, `val_loss`, `val_score`, `images_per_second`, `lr`."""
    value: float | None
    """Null: it was not a finite number."""


class MetricPage(Message):
    """Numbers in the order in which they came."""

    metrics: list[Metric]
    """Those with an id above `after`."""
    next: int | None
    """Pass it as `after` to go on; null: nothing more at present."""


class Result(Message):
    """How one task did on its test images, under the plan or under a baseline."""

    task: str
    """Its name."""
    group: str
    """The group that trained it."""
    baseline: Literal["zero_shot", "alone", "all"] | None
    """Null: under the job's own plan."""
    metric: str
    """What `score` is: `accuracy`, `mean_average_precision` or `recall@1`, as the task's kind has it."""
    score: float | None
    """On test images, 0 to 1, higher is better."""
    metrics: dict[str, float | None]
    """All that was measured on test images, by name; `metric` is one of them."""
    loss: float | None
    """Mean loss on test images, in nats."""
    num_test: int
    """Test images."""


class Comparison(Message):
    """One task's test score (0 to 1) under every way it was trained; null where that was not asked for or failed."""

    task: str
    """Its name."""
    metric: str
    """What the scores are, e.g. `accuracy`.  Only scores of one metric can be averaged."""
    group: str | None
    """Its group in the plan."""
    zero_shot: float | None
    """CLIP as it is."""
    alone: float | None
    """Trained by itself."""
    all: float | None
    """Trained with all tasks in one group."""
    grouped: float | None
    """Trained in its group of the plan."""


class Results(Message):
    """Every result of a job, and the same as a table."""

    results: list[Result]
    """As they were measured."""
    table: list[Comparison]
    """One row a task, in the order of the job."""
    gains: list[Gain] = Field(default_factory=list)
    """What the groups gained over each baseline, means first; empty until the job is published."""


class Artifact(Message):
    """A file that the job has left."""

    path: str
    """Relative to the job; fetch it at `/v1/jobs/{id}/artifacts/{path}`."""
    size: int
    """Bytes."""
    modified_at: datetime
    """When it was written."""


class ArtifactList(Message):
    """All files of a job."""

    artifacts: list[Artifact]
    """By path."""


class ClassCount(Message):
    """A class of a task's source."""

    name: str
    """As it goes into the template."""
    num_images: int
    """Images that show it."""


class TaskCheck(Message):
    """What a quick look found at a task's source, without opening an image."""

    task: str
    """Its name."""
    kind: TaskKind
    """What it asks of its images."""
    num_classes: int | None = None
    """Classes found; null where the source could not be read.  A retrieval task has none."""
    num_captions: int | None = None
    """Captions found, of a retrieval task."""
    num_images: int | None = None
    """Images found."""
    class_names: list[str] = Field(default_factory=list)
    """The first 20, as they go into the template."""
    classes: list[ClassCount] = Field(default_factory=list)
    """The first 100 with their images; an image of several classes counts for each.  A retrieval task has none."""
    problem: str | None = None
    """What is wrong with it, and what to do."""


class Fault(Message):
    """One fault of a request."""

    path: str
    """Where: `tasks[0].template`; empty for the whole."""
    problem: str
    """What was given, what was expected, what to do."""


class Validation(Message):
    """Whether a job would be accepted."""

    valid: bool
    """True: nothing was found wrong."""
    faults: list[Fault]
    """Of the description itself."""
    tasks: list[TaskCheck]
    """Of the data; empty where the description could not be read."""


class Readiness(Message):
    """What the service stands on."""

    ready: bool
    """True: all of it answers."""
    checks: dict[str, bool | str]
    """database, storage, ray -> true, or a sentence on what is wrong with it."""


class Problem(BaseModel):
    """An error (RFC 9457).  `detail` says what was given, what was expected and what to do."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = "about:blank"
    """A name for this sort of problem that does not change."""
    title: str = ""
    """The sort of problem, in words."""
    status: int
    """The HTTP status again."""
    detail: str = ""
    """This problem, in words."""
    instance: str | None = None
    """The path that was asked for."""
    errors: list[Fault] = Field(default_factory=list)
    """One entry per fault, where there are several."""
