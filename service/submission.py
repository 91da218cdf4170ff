"""Taking a job in: from the text that a stranger sent to an accepted job, or to a list of what is wrong with it."""

import hashlib
import json
from collections import Counter
from typing import Any

from pydantic import Field

from service import lifecycle, wire
from service.errors import SpecError
from service.reading import read_spec as read_model
from service.records import Job, Purpose
from service.settings import Settings
from service.spec import JobSpec, check_roots, defined_baselines, parse_spec
from service.states import Verb
from service.store import Store
from workers.data.config import TaskConfig
from workers.data.roots import DataRoots
from workers.data.sources import list_task
from workers.spec import Spec

_SHOWN_CLASSES = 20
_COUNTED_CLASSES = 100


def submit(
    store: Store,
    settings: Settings,
    text: bytes,
    *,
    tenant: str,
    json_only: bool,
    idempotency_key: str | None,
    purpose: Purpose = "train",
) -> tuple[Job, bool]:
    """Accepts a job: (job, True), or (the earlier job, False) where the same key brought the same body before.

    Whether the data is good is found out by the job itself; only where it lies is checked here.
    """
    spec = read_spec(text, json_only=json_only)
    try:
        check_roots(spec, settings.roots_of(tenant))
    except ValueError as error:
        raise SpecError(str(error)) from error
    body = hashlib.sha256(text if purpose == "train" else purpose.encode() + b"\n" + text).hexdigest()
    return store.create_job(spec, tenant=tenant, idempotency_key=idempotency_key, body_sha256=body, purpose=purpose)


class Clone(Spec):
    """A job like another one."""

    name: str | None = None
    """What the new job is called.  Left out: as the other one."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """What is different, as a JSON merge patch (RFC 7396) of the job description: objects are merged, lists replaced,
    null takes a setting back to its default.  An object of another `kind` replaces the one there is."""


def clone(
    store: Store, settings: Settings, job_id: str, text: bytes, *, json_only: bool, idempotency_key: str | None
) -> tuple[Job, bool]:
    """Accepts a job like this one, with what a `Clone` in YAML or JSON changes: (job, True), or (the earlier job,
    False) where the same key brought the same body before.  SpecError names what does not fit; Conflict."""
    if json_only:
        check_json(text)
    asked = read_model(Clone, text)
    job = store.get_job(job_id)
    lifecycle.check(Verb.CLONE, job)
    changes = asked.overrides | ({} if asked.name is None else {"name": asked.name})
    known = job.spec.model_dump(mode="json")
    if job.spec.baselines == defined_baselines(job.spec.method):
        del known["baselines"]  # as if left out: another method has others
    spec = parse_spec(merged(known, changes))
    try:
        check_roots(spec, settings.roots_of(job.tenant))
    except ValueError as error:
        raise SpecError(str(error)) from error
    body = hashlib.sha256(f"clone of {job_id}\n".encode() + text).hexdigest()
    origin = f"; it is a clone of {job_id}"
    return store.create_job(spec, tenant=job.tenant, idempotency_key=idempotency_key, body_sha256=body, origin=origin)


def merged(target: Any, patch: Any) -> Any:
    """The target with a JSON merge patch applied, and objects of another `kind` replaced."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict) or patch.get("kind", target.get("kind")) != target.get("kind"):
        target = {}
    given = {key: merged(target.get(key), value) for key, value in patch.items() if value is not None}
    return {key: value for key, value in target.items() if key not in patch} | given


def validate(settings: Settings, text: bytes, *, tenant: str, json_only: bool) -> wire.Validation:
    """What would be wrong with the job, and what a quick look at its sources finds.  No image is opened."""
    try:
        spec = read_spec(text, json_only=json_only)
    except SpecError as error:
        faults = error.problems or (("", str(error)),)
        return wire.Validation(
            valid=False, faults=[wire.Fault(path=path, problem=problem) for path, problem in faults], tasks=[]
        )
    roots = settings.roots_of(tenant)
    faults = _root_faults(spec, roots)
    tasks = [_look(task, roots) for task in spec.tasks]
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
    own = (item.labels if task.kind == "multi_label" else (item.label,) for item in listing.items)
    counts = Counter(label for labels in own for label in labels)
    return wire.TaskCheck(
        task=task.name,
        kind=task.kind,
        num_classes=len(listing.class_names),
        num_captions=sum(len(item.captions) for item in listing.items) if task.kind == "retrieval" else None,
        num_images=len(listing.items),
        class_names=list(listing.class_names[:_SHOWN_CLASSES]),
        classes=[
            wire.ClassCount(name=name, num_images=counts[label])
            for label, name in enumerate(listing.class_names[:_COUNTED_CLASSES])
        ],
    )
