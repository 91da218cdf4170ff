"""Submitting a job: a form or pasted YAML, checked while it is written, with an estimate before anything is spent."""

import secrets
from typing import Annotated, Literal

from fastapi import Query, Request, Response

from api.auth import admit, require
from api.context import ControlPlaneOf, ViewsOf
from api.pages.frame import FrameOf
from api.pages.page import Form, Visitor, page_router, render, see
from service import submission
from service.control_plane import ControlPlane
from service.errors import SpecError
from service.estimates import Estimates
from service.pages import form as fields_and_yaml
from service.pages.texts import spec_yaml
from service.reading import read_mapping
from service.records import Job, Purpose
from service.roles import Principal, Role

router = page_router()

_START = """name: my-job
backbone: {model: demo}
tasks:
  - name: digits-ink
    source: {kind: demo, task: digits-ink}
  - name: shapes-filled
    source: {kind: demo, task: shapes-filled}
"""


@router.get("/submit")
def submit_page(
    request: Request,
    principal: Visitor,
    control_plane: ControlPlaneOf,
    views: ViewsOf,
    way: Annotated[Literal["form", "yaml"], Query(alias="as")] = "form",
    like: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """An empty form, or the description of another job to change."""
    require(principal, Role.SUBMITTER)
    if like:
        admit(principal, control_plane, request.method, like)
        return _page(request, "yaml", {"text": spec_yaml(views.job(like).spec)})
    if way == "yaml":
        return _page(request, "yaml", {"text": _START})
    return _page(request, "form", fields_and_yaml.EMPTY | {"tasks[0].name": ""})


@router.post("/submit")
def submit(request: Request, principal: Visitor, control_plane: ControlPlaneOf, fields: Form) -> Response:
    """Accepts the job, or shows the form again with what is wrong; `do` asks for another thing than that."""
    match fields.get("do", ""):
        case "add":
            numbers = fields_and_yaml.task_numbers(fields)
            return _page(request, "form", fields | {f"tasks[{max(numbers, default=-1) + 1}].name": ""})
        case "check":
            faults = fields_and_yaml.quick_faults(control_plane.settings, _text(fields), tenant=principal.tenant)
            return _page(request, fields.get("as", "yaml"), fields, faults=faults)
        case "yaml":
            return _page(request, "yaml", {"text": fields_and_yaml.description(fields)})
        case "form":
            return _as_form(request, fields)
        case do if do.startswith("remove-"):
            gone = f"tasks[{do.removeprefix('remove-')}]."
            return _page(request, "form", {name: text for name, text in fields.items() if not name.startswith(gone)})
    try:
        job = _submitted(control_plane, principal, fields, idempotency_key=fields.get("once"))
    except SpecError as error:
        faults = list(error.problems) or [("", str(error))]
        return _page(request, fields.get("as", "yaml"), fields, faults=faults, status=422)
    return see(request, f"/jobs/{job.id}")


@router.post("/submit/check")
def check(
    request: Request,
    principal: Visitor,
    control_plane: ControlPlaneOf,
    fields: Form,
    data: Annotated[bool, Query(description="Look at the sources of the tasks, too.")] = False,
) -> Response:
    """What is wrong with the description as it stands, for the page that it is written on."""
    text, found = _text(fields), None
    if data:
        body = text.encode(errors="surrogatepass")
        found = submission.validate(control_plane.settings, body, tenant=principal.tenant, json_only=False)
        faults = [(fault.path, fault.problem) for fault in found.faults]
    else:
        faults = fields_and_yaml.quick_faults(control_plane.settings, text, tenant=principal.tenant)
    return render(request, "checked.html", faults=faults, found=found, by_field=_by_field(fields, faults))


@router.post("/submit/estimate")
def estimate(
    request: Request, principal: Visitor, control_plane: ControlPlaneOf, views: ViewsOf, fields: Form
) -> Response:
    """Has a dry run of the description made, and shows where it stands."""
    job = _submitted(control_plane, principal, fields, purpose="estimate")
    found = Estimates(control_plane.store, control_plane.settings, views.files).get(job.id)
    return render(request, "estimate.html", estimate=found)


@router.get("/jobs/{job_id}/estimate")
def estimate_page(request: Request, frame: FrameOf, control_plane: ControlPlaneOf, views: ViewsOf) -> Response:
    """What a dry run found, as a page or, for htmx, as a part of one."""
    found = Estimates(control_plane.store, control_plane.settings, views.files).get(frame.job.id)
    if "hx-request" in request.headers:
        return render(request, "estimate.html", estimate=found)
    return frame.render("estimate", tab="overview", estimate=found)


def _submitted(
    control_plane: ControlPlane,
    principal: Principal,
    fields: dict[str, str],
    *,
    idempotency_key: str | None = None,
    purpose: Purpose = "train",
) -> Job:
    job, _ = submission.submit(
        control_plane.store,
        control_plane.settings,
        _text(fields).encode(errors="surrogatepass"),
        tenant=principal.tenant,
        json_only=False,
        idempotency_key=idempotency_key,
        purpose=purpose,
    )
    return job


def _text(fields: dict[str, str]) -> str:
    return fields_and_yaml.description(fields) if fields.get("as") == "form" else fields.get("text", "")


def _as_form(request: Request, fields: dict[str, str]) -> Response:
    """The pasted YAML as a form, if the form has a field for all that it says."""
    text = fields.get("text", "")
    try:
        found = fields_and_yaml.fields_of(read_mapping(text))
    except SpecError as error:
        return _page(request, "yaml", fields, faults=[("", str(error))], status=422)
    if found is None:
        told = "The form has no fields for all that this description says. Go on here, where nothing is lost."
        return _page(request, "yaml", fields, faults=[("", told)], status=422)
    return _page(request, "form", found)


def _page(
    request: Request,
    way: str,
    fields: dict[str, str],
    *,
    faults: list[tuple[str, str]] | None = None,
    status: int = 200,
) -> Response:
    return render(
        request,
        "submit.html",
        status=status,
        way=way,
        fields=fields,
        numbers=fields_and_yaml.task_numbers(fields),
        methods=[(name, name) for name in fields_and_yaml.METHODS],
        once=fields.get("once") or secrets.token_hex(16),
        faults=faults or [],
        by_field=_by_field(fields, faults or []),
    )


def _by_field(fields: dict[str, str], faults: list[tuple[str, str]]) -> dict[str, str]:
    """Field -> what is wrong with it, empty for nothing."""
    told: dict[str, str] = {}
    for place, problem in faults:
        field = fields_and_yaml.field_of(place, fields)
        told[field] = f"{told[field]} {problem}" if field in told else problem
    return {name: told.get(name, "") for name in fields if name not in ("as", "once", "text", "do")}
