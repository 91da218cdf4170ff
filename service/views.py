"""A job as the outside sees it: rows of the store and files of the job, put together into `service.wire` messages.

Reads only.  Knows no HTTP: the API hands these on as they are.
"""

import logging
from datetime import timedelta
from typing import Any

from service import lifecycle, wire
from service.artifacts import ARBITRATION, Artifact, JobFiles, plan_path, review_path
from service.errors import PlanNotFound
from service.gains import read_gains
from service.plan_views import plan_facts, similarity, task_reasons
from service.queue_views import QueueViews
from service.records import Job, JobLine, standing_plan
from service.settings import Settings
from service.store import Store
from workers.data.config import METRICS
from workers.seals import Damaged

log = logging.getLogger(__name__)

_REPORT = "bundle/report.html"


class Views:
    """What can be asked about jobs."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._queue = QueueViews(store, settings)

    def files(self, job_id: str) -> JobFiles:
        """The job's files.  JobNotFound."""
        return JobFiles(self._settings.storage_place, self._store.get_job(job_id).id)

    def job(self, job: Job | str) -> wire.Job:
        """One job, whole."""
        job = self._store.get_job(job) if isinstance(job, str) else job
        plans = self._store.plans(job.id)
        plan = standing_plan(plans)
        same = ("spec", "parent", "parent_plan", "submission_id", "failures", "stage_times", "progress")
        same += ("updated_at", "retry_of", "storage_bytes", "deadline_at")
        retention = timedelta(days=self._settings.retention_days)
        return wire.Job(
            **_summary(job).model_dump(),
            **{name: getattr(job, name) for name in same},
            verbs=lifecycle.possible(job),
            purge_at=None if job.deleted_at is None else job.deleted_at + retention,
            plan=None if plan is None else wire.Plan.model_validate(plan),
            queue=self._queue.place(job, approved=any(plan.approved for plan in plans)),
        )

    def jobs(self, **where: Any) -> wire.JobPage:
        """A page of jobs, newest first; the arguments are those of `Store.list_jobs`."""
        jobs, cursor = self._store.list_jobs(**where)
        return wire.JobPage(jobs=[_summary(job) for job in jobs], next=cursor)

    def events(self, job_id: str, *, after: int, limit: int) -> wire.EventPage:
        """Events above `after`, oldest first."""
        return wire.EventPage(events=[wire.Event.model_validate(e) for e in self._store.events(job_id, after, limit)])

    def progress(self, job_id: str) -> list[wire.Group]:
        """Every group and how far it is, without a look into any file."""
        rows = [wire.Group.model_validate(row) for row in self._store.groups(job_id)]
        chosen = standing_plan(self._store.plans(job_id))
        if chosen is None or any(row.kind == "plan" for row in rows):
            return rows
        groups = chosen.outline.groups.items()
        return [*(_planned({"id": id, "tasks": tasks}, chosen.created_at) for id, tasks in groups), *rows]

    def groups(self, job_id: str) -> wire.Groups:
        """Every group, with the plan's reasons once there is a plan."""
        rows = self._store.groups(job_id)
        chosen = standing_plan(self._store.plans(job_id))
        if chosen is None:
            return wire.Groups(groups=[wire.Group.model_validate(row) for row in rows], tasks=[])
        plan, review = self.plan(job_id, chosen.number), self._json(job_id, review_path(chosen.number))
        told = {group["id"]: group for group in plan["groups"]}
        groups = []
        for row in rows:
            found = told.get(row.id, {}) if row.kind == "plan" else {}
            more = {"cohesion": found.get("cohesion"), "why": found.get("reason")}
            groups.append(wire.Group.model_validate(row).model_copy(update=more))
        if not any(row.kind == "plan" for row in rows):
            groups = [*(_planned(group, chosen.created_at) for group in plan["groups"]), *groups]
        groups.sort(key=lambda group: group.kind != "plan")
        trials = self._json(job_id, ARBITRATION)
        facts = plan_facts(chosen.outline, plan, review, trials, number=chosen.number, approved=chosen.approved)
        return wire.Groups(groups=groups, tasks=task_reasons(plan, review), plan=facts)

    def similarity(self, job_id: str) -> wire.Similarity:
        """The matrices of the plan that trains, else of the newest.  PlanNotFound before there is one."""
        chosen = standing_plan(self._store.plans(job_id))
        return similarity(self.plan(job_id), chosen and self._json(job_id, review_path(chosen.number)))

    def plan(self, job_id: str, number: int | None = None) -> dict[str, Any]:
        """A plan as it was written; without a number the one that trains, else the newest.  PlanNotFound."""
        plans = self._store.plans(job_id)
        row = standing_plan([plan for plan in plans if number is None or plan.number == number])
        if row is None:
            numbers = [plan.number for plan in plans]
            asked = "no plan yet" if number is None else f"no plan {number}; it has {numbers or 'none'}"
            state = self._store.get_job(job_id).state
            raise PlanNotFound(f"Job {job_id} has {asked}; it is {state}. Plans come after the stage `group`.")
        return self.files(job_id).read_json(plan_path(row.number))

    def metrics(
        self, job_id: str, *, group: str | None, task: str | None, name: str | None, after: int, limit: int
    ) -> wire.MetricPage:
        """Numbers above the cursor, in the order in which they came."""
        found = self._store.metrics(job_id, group=group, task=task, name=name, after=after, limit=limit + 1)
        cursor = found[limit - 1].id if len(found) > limit else None
        return wire.MetricPage(metrics=[wire.Metric.model_validate(row) for row in found[:limit]], next=cursor)

    def results(self, job_id: str) -> wire.Results:
        """Every result, and one row a task of them."""
        rows = self._store.results(job_id)
        by_way = {(row.task, row.baseline): row for row in rows}
        table = []
        for task in self._store.get_job(job_id).spec.tasks:
            ways = {way: by_way.get((task.name, way)) for way in ("zero_shot", "alone", "all", None)}
            own = ways.pop(None)
            scores = {str(way): row.score if row else None for way, row in ways.items()}
            table.append(
                wire.Comparison(
                    task=task.name,
                    metric=METRICS[task.kind],
                    group=own.group if own else None,
                    grouped=own.score if own else None,
                    zero_shot=scores["zero_shot"],
                    alone=scores["alone"],
                    all=scores["all"],
                )
            )
        return wire.Results(
            results=[wire.Result.model_validate(row) for row in rows],
            table=table,
            gains=read_gains(self.files(job_id)),
        )

    def artifacts(self, job_id: str) -> wire.ArtifactList:
        """Every file of the job."""
        return wire.ArtifactList(artifacts=[wire.Artifact.model_validate(info) for info in self.files(job_id).list()])

    def artifact(self, job_id: str, path: str) -> Artifact:
        """A file of the job.  ArtifactNotFound; also for links that lead out."""
        files = self.files(job_id)
        return Artifact(files.file(path), files.info(path))

    def report_path(self, job_id: str) -> str:
        """The report's path among the job's files.  ArtifactNotFound until it is written."""
        self.artifact(job_id, _REPORT)
        return _REPORT

    def log(self, job_id: str, group: str, *, offset: int, limit: int) -> bytes:
        """A part of a group's log, cut at a line's end where one is in it.  ArtifactNotFound."""
        text = self.files(job_id).read_range(f"logs/{group}.log", offset, limit)
        end = text.rfind(b"\n") + 1
        return text[:end] if end and len(text) == limit else text

    def _json(self, job_id: str, path: str) -> dict[str, Any] | None:
        """A file of the job that may not be there (yet); its driver tells of one that is damaged."""
        files = self.files(job_id)
        try:
            return files.read_json(path) if files.exists(path) else None
        except Damaged as error:
            log.warning("%s: %s", job_id, error)
            return None


def _summary(job: JobLine) -> wire.JobSummary:
    same = ("id", "name", "tenant", "state", "desired", "reason", "attempt", "created_at", "started_at", "finished_at")
    same += ("priority", "failure", "archived_at", "deleted_at", "num_tasks", "method")
    return wire.JobSummary(**{name: getattr(job, name) for name in same})


def _planned(group: dict[str, Any], now: Any) -> wire.Group:
    """A group of a plan that nothing has trained yet: it waits (perhaps for an approval)."""
    return wire.Group(
        id=group["id"],
        kind="plan",
        tasks=group["tasks"],
        state="waiting",
        step=0,
        num_steps=0,
        losses={},
        reason=None,
        worker=None,
        parameters={},
        seconds=None,
        cohesion=group.get("cohesion"),
        why=group.get("reason"),
        updated_at=now,
    )
