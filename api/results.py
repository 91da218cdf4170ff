"""What came out of a job: groups and why, similarities, numbers, results."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.context import ViewsOf
from service import wire

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])


@router.get("/groups", summary="Who trains with whom, and why")
def groups(job_id: str, views: ViewsOf) -> wire.Groups:
    """Groups of the plan and of the baselines, how far each is, and the reason for every task."""
    return views.groups(job_id)


@router.get("/similarity", summary="How the tasks agree")
def similarity(job_id: str, views: ViewsOf) -> wire.Similarity:
    """The matrix that the groups were read from.  404 until there is a plan."""
    return views.similarity(job_id)


@router.get("/plan", summary="The plan")
def plan(
    job_id: str,
    views: ViewsOf,
    number: Annotated[
        int | None, Query(ge=0, lt=2**31, description="Left out: the one that trains, else the newest.")
    ] = None,
) -> dict[str, Any]:
    """The groups of a job with every reason and matrix, as they are kept.  `/plans/{number}` has the review, too."""
    return views.plan(job_id, number)


@router.get("/metrics", summary="Losses, validation scores, speed")
def metrics(
    job_id: str,
    views: ViewsOf,
    group: Annotated[str | None, Query(description="Only of this group.")] = None,
    task: Annotated[str | None, Query(description="Only of this task.")] = None,
    name: Annotated[str | None, Query(description="Only of this name, e.g. `val_score`.")] = None,
    after: Annotated[int, Query(ge=0, lt=2**31, description="The `next` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Numbers per page.")] = 1000,
) -> wire.MetricPage:
    """One number per group, task, step and name, in the order in which they came."""
    return views.metrics(job_id, group=group, task=task, name=name, after=after, limit=limit)


@router.get("/results", summary="Test scores")
def results(job_id: str, views: ViewsOf) -> wire.Results:
    """Every task under the plan and under every baseline."""
    return views.results(job_id)
