"""What a client asks of the API and how it reads the answers, without sending anything.

`Cohort` and `AsyncCohort` differ only in how a `Call` is sent, so everything else is here once.  Needs neither torch
nor ray.
"""

import hashlib
import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from service import wire, wire_plans
from service.spec import JobSpec
from service.states import Verb
from service.wire_estimate import Estimate

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

RETRIED_STATUSES = frozenset({502, 503, 504})
MANIFEST = "bundle/manifest.json"
TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
ESTIMATE_WAIT_SECONDS = 20
STREAM_TIMEOUT = httpx2.Timeout(30.0, connect=5.0, read=45.0)  # the API sends a heartbeat every 15 s


class ApiError(RuntimeError):
    """The API refused.  `problem` is what it said (RFC 9457)."""

    def __init__(self, problem: wire.Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status

    def __str__(self) -> str:
        return self.problem.detail or f"{self.problem.status} {self.problem.title}"


class Unreachable(RuntimeError):
    """No service answers at the address."""


class BundleBroken(RuntimeError):
    """A fetched file is not the one that the manifest names."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    repeatable: bool = True
    """Whether sending it twice is the same as once; only such calls are tried again."""


def connection(url: str, key: str | None) -> dict[str, Any]:
    """Arguments for an httpx2 client."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url.rstrip("/"), "headers": headers, "timeout": TIMEOUT}


def pause(attempt: int, answer: httpx2.Response | None = None) -> float:
    """Seconds before try `attempt` + 1: doubled each time, spread by chance, at least what the service asked for."""
    asked = answer.headers.get("Retry-After", "") if answer is not None else ""
    return max(float(asked) if asked.isdigit() else 0.0, min(10.0, 0.2 * 2**attempt) * random.uniform(0.5, 1.0))


def check(answer: httpx2.Response) -> None:
    """ApiError for every answer that is no success.  The body must have been read."""
    if answer.is_success:
        return
    try:
        problem = wire.Problem.model_validate_json(answer.content)
    except ValidationError:  # a proxy in between speaks for itself
        problem = wire.Problem(status=answer.status_code, title=answer.reason_phrase, detail=answer.text[:300])
    raise ApiError(problem)


def unreachable(url: object, error: Exception) -> Unreachable:
    return Unreachable(
        f"No Cohort service answers at {url} ({error}). Start one with `cohort up`, or give another URL."
    )


def job_text(job: JobSpec | Path | str | bytes | dict[str, Any]) -> tuple[bytes, str]:
    """A job description's text and content type, from a spec, a path, a dict, or the text itself.

    A string of one line that names a file is a path.
    """
    if isinstance(job, JobSpec):
        return job.model_dump_json().encode(), "application/json"
    if isinstance(job, dict):
        return json.dumps(job).encode(), "application/json"
    if isinstance(job, str) and "\n" not in job and not job.lstrip().startswith("{"):
        job = Path(job)
    if isinstance(job, Path):
        if not job.is_file():
            raise FileNotFoundError(f"{job} is no file. Give the path of a job description, or its text.")
        job = job.read_bytes()
    return job if isinstance(job, bytes) else job.encode(), "application/yaml"


def submit(job: JobSpec | Path | str | bytes | dict[str, Any], *, idempotency_key: str | None = None) -> Call[wire.Job]:
    """Without a key one is made up, so that a try again after a broken connection makes no second job."""
    text, kind = job_text(job)
    headers = {"Content-Type": kind, "Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", "/v1/jobs", _model(wire.Job), headers=headers, content=text)


def estimate(
    job: JobSpec | Path | str | bytes | dict[str, Any], *, idempotency_key: str | None = None
) -> Call[Estimate]:
    """Without a key one is made up, as for `submit`."""
    text, kind = job_text(job)
    headers = {"Content-Type": kind, "Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", "/v1/jobs/estimate", _model(Estimate), headers=headers, content=text)


def get_estimate(job_id: str, seconds: float) -> Call[Estimate]:
    """Answered when it has ended, at the latest after that time, or a while."""
    wait = max(0.0, min(seconds, ESTIMATE_WAIT_SECONDS))
    return Call("GET", f"{_path(job_id)}/estimate", _model(Estimate), params={"wait": wait})


def validate(job: JobSpec | Path | str | bytes | dict[str, Any]) -> Call[wire.Validation]:
    text, kind = job_text(job)
    return Call("POST", "/v1/jobs/validate", _model(wire.Validation), headers={"Content-Type": kind}, content=text)


def jobs(
    state: str | None = None,
    after: str | None = None,
    limit: int = 50,
    *,
    archived: bool = False,
    deleted: bool = False,
) -> Call[wire.JobPage]:
    params = _given(state=state, after=after, limit=limit, archived=archived or None, deleted=deleted or None)
    return Call("GET", "/v1/jobs", _model(wire.JobPage), params=params)


def job(job_id: str) -> Call[wire.Job]:
    return Call("GET", _path(job_id), _model(wire.Job))


def verb(job_id: str, verb: Verb, **params: str) -> Call[wire.Job]:
    """One that is repeatable: cancel, pause, resume, archive, unarchive, delete or restore."""
    if verb == Verb.DELETE:
        return Call("DELETE", _path(job_id), _model(wire.Job))
    return Call("POST", f"{_path(job_id)}/{verb}", _model(wire.Job), params=params)


def cancel(job_id: str, *, now: bool = False) -> Call[wire.Job]:
    return verb(job_id, Verb.CANCEL, **({"mode": "now"} if now else {}))


def retry(job_id: str, *, idempotency_key: str | None = None) -> Call[wire.Job]:
    """Without a key one is made up, as for `submit`."""
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", f"{_path(job_id)}/{Verb.RETRY}", _model(wire.Job), headers=headers)


def clone(
    job_id: str, overrides: Mapping[str, Any] | None, name: str | None, *, idempotency_key: str | None = None
) -> Call[wire.Job]:
    """Without a key one is made up, as for `submit`."""
    text = json.dumps(_given(overrides=overrides, name=name)).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", f"{_path(job_id)}/{Verb.CLONE}", _model(wire.Job), headers=headers, content=text)


def approve(job_id: str, number: int) -> Call[wire.Job]:
    return Call("POST", f"{_path(job_id)}/plans/{number}/approve", _model(wire.Job))


def plans(job_id: str) -> Call[list[wire_plans.PlanSummary]]:
    read = _model(wire_plans.PlanList)
    return Call("GET", f"{_path(job_id)}/plans", lambda answer: read(answer).plans)


def replan(
    job_id: str, settings: Mapping[str, Any] | None, groups: Mapping[str, Sequence[str]] | None
) -> Call[wire_plans.PlanDetail]:
    """Sent once: each time makes a plan."""
    text = json.dumps(_given(settings=settings, groups=groups), default=str).encode()
    headers = {"Content-Type": "application/json"}
    read = _model(wire_plans.PlanDetail)
    return Call("POST", f"{_path(job_id)}/plans", read, headers=headers, content=text, repeatable=False)


def reviewed_plan(job_id: str, number: int) -> Call[wire_plans.PlanDetail]:
    return Call("GET", f"{_path(job_id)}/plans/{number}", _model(wire_plans.PlanDetail))


def compare(job_id: str, first: int, second: int) -> Call[wire_plans.PlanComparison]:
    params = {"first": first, "second": second}
    return Call("GET", f"{_path(job_id)}/plans/compare", _model(wire_plans.PlanComparison), params=params)


def rerun(job_id: str, number: int, *, idempotency_key: str | None = None) -> Call[wire.Job]:
    """Without a key one is made up, as for `submit`."""
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", f"{_path(job_id)}/plans/{number}/run", _model(wire.Job), headers=headers)


def add_tasks(
    job_id: str, tasks: Path | str | bytes | dict[str, Any], *, idempotency_key: str | None = None
) -> Call[wire.Job]:
    """Without a key one is made up, as for `submit`."""
    text, kind = job_text(tasks)
    headers = {"Content-Type": kind, "Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", f"{_path(job_id)}/tasks", _model(wire.Job), headers=headers, content=text)


def events(job_id: str, after: int = 0, limit: int = 500) -> Call[wire.EventPage]:
    return Call("GET", f"{_path(job_id)}/events", _model(wire.EventPage), params={"after": after, "limit": limit})


def stream(job_id: str, after: int) -> dict[str, Any]:
    """Arguments for an httpx2 stream of the job's events above `after`."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after), "Cache-Control": "no-store"}
    return {"method": "GET", "url": f"{_path(job_id)}/events", "headers": headers, "timeout": STREAM_TIMEOUT}


def groups(job_id: str) -> Call[wire.Groups]:
    return Call("GET", f"{_path(job_id)}/groups", _model(wire.Groups))


def similarity(job_id: str) -> Call[wire.Similarity]:
    return Call("GET", f"{_path(job_id)}/similarity", _model(wire.Similarity))


def plan(job_id: str, number: int | None = None) -> Call[dict[str, Any]]:
    return Call("GET", f"{_path(job_id)}/plan", lambda answer: answer.json(), params=_given(number=number))


def metrics(
    job_id: str,
    group: str | None = None,
    task: str | None = None,
    name: str | None = None,
    after: int = 0,
    limit: int = 1000,
) -> Call[wire.MetricPage]:
    params = _given(group=group, task=task, name=name, after=after, limit=limit)
    return Call("GET", f"{_path(job_id)}/metrics", _model(wire.MetricPage), params=params)


def results(job_id: str) -> Call[wire.Results]:
    return Call("GET", f"{_path(job_id)}/results", _model(wire.Results))


def artifacts(job_id: str) -> Call[list[wire.Artifact]]:
    read = _model(wire.ArtifactList)
    return Call("GET", f"{_path(job_id)}/artifacts", lambda answer: read(answer).artifacts)


def artifact(job_id: str, path: str) -> Call[bytes]:
    return Call("GET", f"{_path(job_id)}/artifacts/{quote(path)}", lambda answer: answer.content)


def report(job_id: str) -> Call[str]:
    return Call("GET", f"{_path(job_id)}/report", lambda answer: answer.text)


def log(job_id: str, group: str, offset: int = 0) -> Call[tuple[str, int]]:
    """Reads (text, offset to go on at)."""
    path = f"{_path(job_id)}/groups/{quote(group, safe='')}/logs"
    return Call(
        "GET", path, lambda answer: (answer.text, int(answer.headers["X-Next-Offset"])), params=_given(offset=offset)
    )


def ready() -> Call[dict[str, Any]]:
    return Call("GET", "/readyz", lambda answer: answer.json(), repeatable=False)


def bundle_files(manifest: bytes) -> dict[str, str]:
    """Path -> sha256 of every file that the bundle's manifest names.  BundleBroken for a path that leads out."""
    files = {path: entry["sha256"] for path, entry in json.loads(manifest)["files"].items()}
    for path in files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in path or not pure.parts:
            raise BundleBroken(
                f"The manifest names {path!r:.200}, which is no path inside a bundle. Nothing was fetched."
            )
    return files


def write_checked(folder: Path, path: str, content: bytes, sha256: str) -> None:
    """Writes a fetched file, all or nothing.  BundleBroken unless the content is what the manifest says."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BundleBroken(f"{path}: its sha256 is {found}, the manifest says {sha256}. Fetch the bundle again.")
    write_file(folder / path, content)


def write_file(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.part")
    part.write_bytes(content)
    part.replace(place)


def is_there(folder: Path, path: str, sha256: str) -> bool:
    """Whether an earlier pull has fetched the file already."""
    place = folder / path
    return place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == sha256


def _model(kind: type[M]) -> Callable[[httpx2.Response], M]:
    return lambda answer: kind.model_validate_json(answer.content)


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"
