"""What came out of a job, a page each: groups and why, tasks, curves, similarities."""

from typing import Annotated, Any

from fastapi import Query, Response

from api.context import ControlPlaneOf, ViewsOf
from api.pages.frame import FrameOf
from api.pages.page import page_router
from service import wire
from service.errors import ArtifactNotFound, PlanNotFound
from service.pages import curves as drawn
from service.pages.similarity import Show, neighbours, picture, square
from service.pages.tasks import Sort, task_page
from service.report_plan import drawn_reasons, least_sure
from service.scores import gain_sentences
from service.views import Views

router = page_router()

Name = Annotated[str, Query(max_length=80)]
Start = Annotated[int, Query(ge=0, lt=2**31)]
_REASONS = 30  # of a page


@router.get("/jobs/{job_id}/groups")
def groups(frame: FrameOf, views: ViewsOf, text: Name = "", group: Name = "", start: Start = 0) -> Response:
    """Who trains with whom, how sure that is, and why every task is where it is."""
    found = views.groups(frame.job.id)
    planned = [each for each in found.groups if each.kind == "plan"]
    place = {task: number for number, task in enumerate(task for each in planned for task in each.tasks)}
    reasons = [told for told in found.tasks if text.lower() in told.task.lower() and group in ("", told.group)]
    reasons.sort(key=lambda told: place.get(told.task, len(place)))
    shown = reasons[start : start + _REASONS]
    return frame.render(
        "groups",
        facts=found.plan,
        groups=planned,
        unsure=least_sure(found.tasks),
        reasons=drawn_reasons(shown, [told.task for told in shown]),
        num_found=len(reasons),
        start=start,
        next=start + _REASONS if len(reasons) > start + _REASONS else None,
        asked={"text": text, "group": group},
    )


@router.get("/jobs/{job_id}/tasks")
def tasks(
    frame: FrameOf, views: ViewsOf, text: Name = "", group: Name = "", sort: Sort = "", start: Start = 0
) -> Response:
    """Every task's score beside its baselines."""
    results, found = views.results(frame.job.id), views.groups(frame.job.id)
    num_groups = sum(each.kind == "plan" for each in found.groups)
    return frame.render(
        "tasks",
        table=task_page(results, found, text=text, group=group, sort=sort, start=start),
        group_names=[each.id for each in found.groups if each.kind == "plan"],
        told=gain_sentences(results.gains, num_groups=num_groups),
        baselines=[name for name in ("zero_shot", "alone", "all") if name in frame.job.spec.baselines],
        is_measured=bool(results.results),
        start=start,
        asked={"text": text, "group": group, "sort": sort},
    )


@router.get("/jobs/{job_id}/curves")
def curves(
    frame: FrameOf, views: ViewsOf, control_plane: ControlPlaneOf, group: Name = "", task: Name = ""
) -> Response:
    """Losses and scores while they come: a line a group, the tasks of one group, or one task in all its groups."""
    store, job_id = control_plane.store, frame.job.id
    found = [each for each in views.groups(job_id).groups if each.num_steps or each.step]
    planned = [each.id for each in found if each.kind == "plan"]
    one = next((each for each in found if each.id == group), None)
    alone = [each for each in found if each.kind == "alone"]
    if task:
        charts = drawn.of_one_task(store, job_id, task, [each.id for each in found if task in each.tasks])
    elif one is not None:
        charts = drawn.of_tasks(store, job_id, [one.id], one.tasks)
    elif group == "alone":
        charts = drawn.of_tasks(store, job_id, [each.id for each in alone], [each.tasks[0] for each in alone])
    else:
        charts = drawn.of_groups(store, job_id, planned or [each.id for each in found if each.kind == "shared"])
    choices = [each.id for each in found if each.kind in ("plan", "shared", "all")]
    return frame.render(
        "curves",
        charts=charts,
        choices=choices + ["alone"] * bool(alone),
        of=one,
        asked={"group": group, "task": task},
    )


@router.get("/jobs/{job_id}/similarity")
def similarity(frame: FrameOf, views: ViewsOf, show: Show = "similarity", task: Name = "") -> Response:
    """How the tasks agree: a square with its tree, and one task's neighbours."""
    plan, matrices = _measured(views, frame.job.id)
    drawing = square(plan, matrices) if plan is not None and matrices is not None else None
    return frame.render(
        "similarity",
        plan=plan,
        matrices=matrices,
        drawing=drawing,
        is_large=matrices is not None
        and matrices.similarity is not None
        and (drawing is None or drawing.heat.by_group),
        show=show if matrices is not None and matrices.together is not None else "similarity",
        task=task,
        pairs=[] if matrices is None else neighbours(matrices, task),
    )


@router.get("/jobs/{job_id}/similarity.png")
def similarity_picture(job_id: str, views: ViewsOf, show: Show = "similarity") -> Response:
    """Every pair of tasks as a pixel."""
    plan, matrices = _measured(views, job_id)
    image = None if plan is None or matrices is None else picture(plan, matrices, show)
    if image is None:
        raise ArtifactNotFound(f"Job {job_id} has measured no {show}, so there is no picture of it.")
    return Response(image, media_type="image/png", headers={"Cache-Control": "private, max-age=600"})


def _measured(views: Views, job_id: str) -> tuple[dict[str, Any] | None, wire.Similarity | None]:
    try:
        return views.plan(job_id), views.similarity(job_id)
    except PlanNotFound:
        return None, None
