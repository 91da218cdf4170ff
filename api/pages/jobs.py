"""The list of jobs, one job, and what can be asked of it."""

import json
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from api.context import ControlPlaneOf, ViewsOf
from api.pages.frame import FrameOf
from api.pages.page import Form, Visitor, page_router, render, see
from service import children, submission
from service.control_plane import ControlPlane
from service.errors import SpecError
from service.pages.marks import encode, list_marks
from service.pages.overview import progress_rows, stage_rows
from service.pages.texts import spec_yaml
from service.reading import read_mapping
from service.records import Job
from service.roles import Role
from service.states import Desired, JobState, Verb

router = page_router()

Kept = Literal["", "archived", "deleted", "estimates"]
_WISHES = {Verb.CANCEL: Desired.CANCEL, Verb.PAUSE: Desired.PAUSE, Verb.RESUME: Desired.RUN}


@router.get("/")
def jobs(
    request: Request,
    principal: Visitor,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    state: JobState | Literal[""] = "",
    kept: Kept = "",
    tenant: Annotated[str, Query(max_length=64)] = "",
    after: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """Jobs, newest first, as the filters say."""
    everybody = principal.may(Role.OPERATOR)
    of = (tenant or None) if everybody else principal.tenant
    page = views.jobs(
        tenant=of,
        state=state or None,
        archived=kept == "archived",
        deleted=kept == "deleted",
        purpose="estimate" if kept == "estimates" else "train",
        after=after or None,
    )
    asked = {name: value for name, value in {"state": state, "kept": kept, "tenant": tenant}.items() if value}
    return render(
        request,
        "jobs.html",
        jobs=page.jobs,
        states=list(JobState),
        asked=asked,
        after=after,
        here="/?" + urlencode(asked | ({"after": after} if after else {})),
        more=None if page.next is None else "/?" + urlencode(asked | {"after": page.next}),
        everybody=everybody,
        seen=encode(list_marks(control_plane.store, None if everybody else principal.tenant)),
    )


@router.get("/jobs/{job_id}")
def job(frame: FrameOf, views: ViewsOf) -> Response:
    """Where a job stands: its stages, and how far every group is."""
    groups = views.groups(frame.job.id)
    return frame.render("overview", stages=stage_rows(frame.job), rows=progress_rows(groups.groups), plan=groups.plan)


@router.get("/jobs/{job_id}/head")
def head(frame: FrameOf) -> Response:
    """What a job's pages begin with: its state and why."""
    return frame.render("head")


@router.get("/jobs/{job_id}/verbs")
def verbs(frame: FrameOf) -> Response:
    """What can be asked of a job now."""
    return frame.render("verbs")


@router.get("/jobs/{job_id}/description")
def description(frame: FrameOf) -> Response:
    """The job as it was understood, defaults written out."""
    return frame.render("description", text=spec_yaml(frame.job.spec))


@router.post("/jobs/{job_id}/priority")
def priority(job_id: str, request: Request, control_plane: ControlPlaneOf, fields: Form) -> Response:
    """Lets a job start earlier or later."""
    given = fields.get("priority", "")
    try:
        number = int(given)
    except ValueError as error:
        raise SpecError(f"priority: given {given!r:.40}; expected a whole number from -100 to 100.") from error
    if not -100 <= number <= 100:
        raise SpecError(f"priority: given {number}; expected a whole number from -100 to 100.")
    control_plane.store.set_priority(job_id, number)
    return see(request, f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/{verb}")
def ask(job_id: str, verb: Verb, request: Request, control_plane: ControlPlaneOf, fields: Form) -> Response:
    """Asks something of a job, and leads to it; to the new job where there is one."""
    store, settings = control_plane.store, control_plane.settings
    match verb:
        case Verb.CANCEL | Verb.PAUSE | Verb.RESUME:
            store.set_desired(job_id, _WISHES[verb], at_once=fields.get("mode") == "now")
        case Verb.RETRY:
            job_id = children.retry(store, settings, job_id, idempotency_key=fields.get("once"))[0].id
        case Verb.CLONE:
            job_id = _clone(control_plane, job_id, fields).id
        case Verb.ARCHIVE | Verb.UNARCHIVE | Verb.DELETE | Verb.RESTORE:
            getattr(store, verb)(job_id)
    return see(request, f"/jobs/{job_id}")


def _clone(control_plane: ControlPlane, job_id: str, fields: dict[str, str]) -> Job:
    """The job once more, with the name and the settings of the form."""
    changes = read_mapping(fields.get("overrides", "").strip() or "{}")
    asked = json.dumps({"name": fields.get("name") or None, "overrides": changes}).encode()
    store, settings = control_plane.store, control_plane.settings
    return submission.clone(store, settings, job_id, asked, json_only=True, idempotency_key=fields.get("once"))[0]
