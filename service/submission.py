"""Taking a job in: from the text that a stranger sent to an accepted job, or to a list of what is wrong with it."""

import hashlib
import json

from service import wire
from service.errors import SpecError
from service.records import Job
from service.settings import Settings
from service.spec import JobSpec, check_roots, parse_spec
from service.store import Store
from workers.data.config import TaskConfig
from workers.data.roots import DataRoots
from workers.data.sources import list_task

_SHOWN_CLASSES = 20


def submit(
    store: Store, settings: Settings, text: bytes, *, tenant: str, json_only: bool, idempotency_key: str | None
) -> tuple[Job, bool]:
    """Accepts a job: (job, True), or (the earlier job, False) where the same key brought the same body before.

    Whether the data is good is found out by the job itself; only where it lies is checked here.
    """
    spec = read_spec(text, json_only=json_only)
    try:
        check_roots(spec, settings.roots)
    except ValueError as error:
        raise SpecError(str(error)) from error
    body = hashlib.sha256(text).hexdigest()
    return store.create_job(spec, tenant=tenant, idempotency_key=idempotency_key, body_sha256=body)


def validate(settings: Settings, text: bytes, *, json_only: bool) -> wire.Validation:
    """What would be wrong with the job, and what a quick look at its sources finds.  No image is opened."""
    try:
        spec = read_spec(text, json_only=json_only)
    except SpecError as error:
        faults = error.problems or (("", str(error)),)
        return wire.Validation(
            valid=False, faults=[wire.Fault(path=path, problem=problem) for path, problem in faults], tasks=[]
        )
    faults = _root_faults(spec, settings.roots)
    tasks = [_look(task, settings.roots) for task in spec.tasks]
    valid = not faults and all(task.problem is None for task in tasks)
    return wire.Validation(valid=valid, faults=faults, tasks=tasks)


def read_spec(text: bytes, *, json_only: bool) -> JobSpec:
    """The job description.  SpecError; also for YAML that was announced as JSON."""
    if json_only:
        check_json(text)
    return parse_spec(text)


def check_json(text: bytes) -> None:
    """SpecError unless the text is the JSON that it was announced as."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(
            f"The body is announced as JSON but is none: {error}. Send JSON, or Content-Type: application/yaml."
        ) from error


def _root_faults(spec: JobSpec, roots: DataRoots) -> list[wire.Fault]:
    """Faults of the backbone's place; the tasks' own places are told with the tasks."""
    try:
        check_roots(spec.model_copy(update={"tasks": []}), roots)
    except ValueError as error:
        return [wire.Fault(path="backbone.model", problem=str(error))]
    return []


def _look(task: TaskConfig, roots: DataRoots) -> wire.TaskCheck:
    try:
        listing = list_task(task, roots)
    except ValueError as error:
        return wire.TaskCheck(task=task.name, kind=task.kind, problem=str(error))
    return wire.TaskCheck(
        task=task.name,
        kind=task.kind,
        num_classes=len(listing.class_names),
        num_captions=sum(len(item.captions) for item in listing.items) if task.kind == "retrieval" else None,
        num_images=len(listing.items),
        class_names=list(listing.class_names[:_SHOWN_CLASSES]),
    )
