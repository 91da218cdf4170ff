"""What a job has on record, a page each: its data, events, logs and files."""

from typing import Annotated, Literal

from fastapi import Query, Response

from api.context import ControlPlaneOf, ViewsOf
from api.pages.frame import FrameOf
from api.pages.page import page_router
from service import wire
from service.errors import NotFound
from service.estimates import Estimates
from service.pages.data import image, look, summaries

router = page_router()

_EVENTS = 100  # of a page
_LOG_TAIL = 2**16


@router.get("/jobs/{job_id}/data")
def data(frame: FrameOf, control_plane: ControlPlaneOf, views: ViewsOf) -> Response:
    """Every task's classes, splits and unreadable images, as far as somebody has looked."""
    job = control_plane.store.get_job(frame.job.id)
    forecast = None
    if job.purpose == "estimate":
        forecast = Estimates(control_plane.store, control_plane.settings, views.files).get(job.id).forecast
    return frame.render("data", rows=summaries(job.spec, views.files(job.id), forecast))


@router.get("/jobs/{job_id}/data/{task}")
def task_data(task: str, frame: FrameOf, control_plane: ControlPlaneOf, views: ViewsOf) -> Response:
    """Images per class of a task, those that cannot be read, and some of the others."""
    config = _task(frame.job, task)
    roots = control_plane.settings.roots_of(frame.job.tenant)
    known = next(row for row in summaries(frame.job.spec, views.files(frame.job.id), None) if row.name == task)
    return frame.render("task_data", tab="data", task=config, known=known, found=look(config, roots))


@router.get("/jobs/{job_id}/data/{task}/image")
def task_image(
    job_id: str,
    task: str,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    key: Annotated[str, Query(max_length=4096)],
) -> Response:
    """An image of a task, as it is kept."""
    job = views.job(job_id)
    content, kind = image(_task(job, task), control_plane.settings.roots_of(job.tenant), key)
    sandbox = {"Content-Security-Policy": "sandbox; default-src 'none'", "Cache-Control": "private, max-age=600"}
    return Response(content, media_type=kind, headers=sandbox)


@router.get("/jobs/{job_id}/events")
def events(
    frame: FrameOf,
    views: ViewsOf,
    level: Literal["", "info", "warning", "error"] = "",
    before: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> Response:
    """What happened, the newest first."""
    found: list[wire.Event] = []
    stop = before or 2**31 - 1
    page = views.events(frame.job.id, after=0, limit=5000)
    while page.events:
        found += [each for each in page.events if each.seq < stop and level in ("", each.level)]
        page = views.events(frame.job.id, after=page.events[-1].seq, limit=5000)
    shown = found[::-1][:_EVENTS]
    return frame.render(
        "events",
        events=shown,
        asked={"level": level, "before": before},
        older=shown[-1].seq if len(found) > len(shown) else None,
    )


@router.get("/jobs/{job_id}/logs")
def logs(frame: FrameOf, views: ViewsOf, group: Annotated[str, Query(max_length=80)] = "") -> Response:
    """The end of a group's log."""
    files = {
        file.path.removeprefix("logs/").removesuffix(".log"): file.size
        for file in views.artifacts(frame.job.id).artifacts
        if file.path.startswith("logs/") and file.path.endswith(".log")
    }
    group = group or next(iter(files), "")
    text = ""
    if group in files:
        start = max(0, files[group] - _LOG_TAIL)
        text = views.log(frame.job.id, group, offset=start, limit=_LOG_TAIL).decode(errors="replace")
        text = text.partition("\n")[2] if start else text
    return frame.render("logs", group=group, sizes=files, text=text, is_cut=files.get(group, 0) > _LOG_TAIL)


@router.get("/jobs/{job_id}/files")
def files(frame: FrameOf, views: ViewsOf) -> Response:
    """Every file that the job has left."""
    found = views.artifacts(frame.job.id).artifacts
    paths = {file.path for file in found}
    return frame.render(
        "files", files=found, has_report="bundle/report.html" in paths, num_bytes=sum(f.size for f in found)
    )


def _task(job: wire.Job, name: str):
    found = next((task for task in job.spec.tasks if task.name == name), None)
    if found is None:
        raise NotFound(f"Job {job.id} has no task {name!r:.80}.")
    return found
