"""Plans that people ask for: what would other settings give, what are their own groups worth, which plan shall train.

Everything comes from what the job has measured; nothing trains.  A plan is answered at once, its review follows
(`service.reviews`).
"""

import hashlib
from typing import Any

from grouping.comparison import compare
from grouping.config import GroupingConfig
from grouping.given import plan_of_groups
from grouping.measurement import Measurement
from grouping.plan import Plan, plan_from
from grouping.review import Review
from service.artifacts import JobFiles, plan_path, review_path
from service.errors import Conflict, PlanNotFound, SpecError
from service.measurements import SIGNATURES, read_measurement, task_costs
from service.reading import quoted, read_spec
from service.records import Job, PlanRow
from service.reviews import Reviews
from service.settings import Settings
from service.store import Store
from service.submission import check_json
from service.wire_plans import NewPlan, PlanComparison, PlanDetail, PlanList, PlanSummary
from workers.spec import Spec

WHOLE = (Plan, Review)
"""The shapes of what a `PlanDetail` hands on as it is kept."""
MAX_PLANS = 100
"""Plans that one job keeps."""
_TRAINED = ("approve", "arbitrate", "arbitrate_share")
"""Settings that say how a job goes on after its plan, and nothing of the plan."""


class Planner:
    """What can be asked about a job's plans."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._storage = settings.storage_place
        self._reviews = Reviews(settings)

    def close(self) -> None:
        """Gives up the reviews that are not there yet."""
        self._reviews.close()

    def plans(self, job_id: str) -> PlanList:
        """Every plan of the job, in short."""
        return PlanList(plans=[PlanSummary(**_in_short(row)) for row in self._store.plans(job_id)])

    def plan(self, job_id: str, number: int) -> PlanDetail:
        """One plan, whole, with its review once there is one.  PlanNotFound."""
        row = self._row(job_id, number)
        files = JobFiles(self._storage, job_id)
        plan = files.read_json(plan_path(number))
        return PlanDetail(**_in_short(row), plan=plan, **self._review(self._store.get_job(job_id), row, files))

    def add(self, job_id: str, text: bytes, *, json_only: bool = False) -> PlanDetail:
        """Makes the plan that a `NewPlan` in YAML or JSON asks for.

        Raises: SpecError for what is no such request, or what no grouping of these tasks could be; Conflict for a job
        without signatures, and for one that has as many plans as it keeps; QuotaExceeded.
        """
        if json_only:
            check_json(text)
        asked = read_spec(NewPlan, text)
        job = self._store.get_job(job_id)
        files, measurement = self._measured(job)
        self._store.check_storage(job.tenant)
        config = _changed(job.spec.grouping, asked.settings or {})
        costs = task_costs(files, job.spec.training.batch_size)
        try:
            if asked.groups is None:
                known = self._known_groups(job_id)
                plan = plan_from(measurement, config, costs=costs, previous=known, second_opinion=False)
            else:
                summary = "These groups were asked for."
                plan = plan_of_groups(measurement, asked.groups, config, origin="edited", summary=summary, costs=costs)
        except ValueError as error:
            raise SpecError(str(error)) from error
        content = plan.model_dump_json(indent=1)

        def save(number: int) -> None:
            files.write_text(plan_path(number), content)

        number = self._store.add_plan(job_id, plan.outline(), save, at_most=MAX_PLANS)
        assert number is not None, "only an attempt can be stale"
        words = "with other settings" if asked.groups is None else "of groups that were given"
        message = f"Plan {number}, {words}, was asked for: {len(plan.groups)} group(s)."
        self._store.add_event(job_id, "planned", message, data={"plan": number, "groups": plan.outline().groups})
        return self.plan(job_id, number)

    def compare(self, job_id: str, first: int, second: int) -> PlanComparison:
        """How the second plan differs from the first, on what is measured now.  PlanNotFound, Conflict."""
        job = self._store.get_job(job_id)
        rows = [self._row(job_id, number) for number in (first, second)]
        files, measurement = self._measured(job)
        plans = [Plan.model_validate_json(files.read_text(plan_path(row.number))) for row in rows]
        found = compare(measurement, *plans)
        return PlanComparison(first=first, second=second, **found.model_dump())

    def run(self, job_id: str, number: int, *, idempotency_key: str | None) -> tuple[Job, bool]:
        """Accepts a job that trains this plan of a finished job: (job, True), or (the earlier one, False) by the key.

        Raises: PlanNotFound; Conflict while the job is not finished, and for one that forms no groups.
        """
        job, row = self._store.get_job(job_id), self._row(job_id, number)
        if not job.is_finished:
            raise Conflict(
                f"Job {job_id} is {job.state}; its plans can be run as jobs of their own once it is finished. "
                "Wait for its end, or approve the plan if the job waits for that."
            )
        self._measured(job)
        grouping = row.outline.settings.model_copy(update={"approve": False, "arbitrate": False})
        return self._store.create_job(
            job.spec.model_copy(update={"grouping": grouping}),
            tenant=job.tenant,
            idempotency_key=idempotency_key,
            body_sha256=hashlib.sha256(f"plan {number} of {job_id}".encode()).hexdigest(),
            parent=job_id,
            parent_plan=number,
        )

    def _row(self, job_id: str, number: int) -> PlanRow:
        rows = {row.number: row for row in self._store.plans(job_id)}
        if number not in rows:
            raise PlanNotFound(f"Job {job_id} has no plan {number}; it has {quoted(list(map(str, rows))) or 'none'}.")
        return rows[number]

    def _known_groups(self, job_id: str) -> dict[str, list[str]] | None:
        """The groups whose ids are kept: of the plan that trains, else of the job's own, else of the first."""
        rows = self._store.plans(job_id)
        own = [row for row in rows if row.approved] or [row for row in rows if row.attempt is not None] or rows[:1]
        return own[-1].outline.groups if own else None

    def _measured(self, job: Job) -> tuple[JobFiles, Measurement]:
        """The job's files and what is measured.  Conflict where that is nothing, or not every task (yet)."""
        sharing = job.spec.trivial_sharing
        if sharing is not None:
            words = "every task trains alone" if sharing == "alone" else "all tasks train together"
            raise Conflict(
                f"Job {job.id} forms no groups: by its method {words}, so nothing was measured that a plan could be "
                "made from. Submit a job with sharing `grouped` or `grouped+task`."
            )
        files = JobFiles(self._storage, job.id)
        if not files.exists(SIGNATURES):
            when = "and ended without them" if job.is_finished else "and they come with the stage `profile`"
            raise Conflict(f"Job {job.id} has no signatures: it is {job.state}, {when}.")
        measurement = read_measurement(files)
        missing = [task.name for task in job.spec.tasks if task.name not in measurement.task_names]
        if missing:
            raise Conflict(f"Job {job.id} has no signatures of {quoted(missing)} (yet). Ask again after its `profile`.")
        return files, measurement

    def _review(self, job: Job, row: PlanRow, files: JobFiles) -> dict[str, Any]:
        """The fields of `PlanDetail` on the review, which is asked for where nobody else will make it."""
        if files.exists(review_path(row.number)):
            return {"review": files.read_json(review_path(row.number)), "review_state": "done"}
        if job.spec.trivial_sharing is not None or not files.exists(SIGNATURES):
            return {"review": None, "review_state": "none"}
        if row.attempt is None or not job.is_active:  # else its driver is at it
            self._reviews.ask(job.id, row.number, job.spec.training.batch_size)
        problem = self._reviews.problem(job.id, row.number)
        state = "pending" if problem is None else "failed"
        return {"review": None, "review_state": state, "review_problem": problem}


class _Changed(Spec):
    settings: GroupingConfig


def _changed(base: GroupingConfig, settings: dict[str, Any]) -> GroupingConfig:
    """The job's settings with these changed.  SpecError names every fault."""
    if idle := [name for name in _TRAINED if name in settings]:
        raise SpecError(
            f"settings: {quoted(idle)} given, but a plan is asked for without training. Drop it; a new job can have it."
        )
    own = base.model_dump() | {"approve": False, "arbitrate": False}
    return read_spec(_Changed, {"settings": own | settings}).settings


def _in_short(row: PlanRow) -> dict[str, Any]:
    """The fields of `PlanSummary`."""
    same = {name: getattr(row, name) for name in ("number", "approved", "created_at", "approved_at")}
    outline = {name: getattr(row.outline, name) for name in type(row.outline).model_fields}
    return {**same, "asked": row.attempt is None, **outline}
