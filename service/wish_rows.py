"""What users and operators wish of a job, and how its driver hears of it; what becomes of a wish, others decide."""

from sqlalchemy import insert, select, update

from service import lifecycle, tables
from service.errors import Conflict, JobFinished, JobNotFound, PlanNotFound
from service.lifecycle_rows import read_job
from service.quotas import QuotaRows, check_priority
from service.reading import quoted
from service.records import Job, Wish
from service.states import ACTIVE, STAGE_OF, Desired, JobState
from service.training_rows import TrainingRows, must_be_id

_DRAINING = "draining"
_PAST_PLANS = frozenset({"search", "train", "publish"})


class WishRows(TrainingRows, QuotaRows):
    """The store's part about wishes (abstract: `Store` is what is used)."""

    def set_desired(self, job_id: str, desired: Desired, *, at_once: bool = False) -> Job:
        """Writes the user's wish; repeatable.  Conflict once it is finished (but cancelling a cancelled job).

        `at_once`: a cancel that waits for no checkpoint; a job that is being cancelled can be hurried so.
        """
        assert desired == Desired.CANCEL or not at_once, "only a cancel can be at once"
        with self.write("set_desired") as connection:
            job = read_job(connection, job_id, lock=True)
            new = lifecycle.check(lifecycle.VERB_OF[desired], job)
            hurried = at_once and not job.at_once and not job.is_finished
            if not new and not hurried:
                return job
            values = {"desired": desired, "at_once": at_once or job.at_once}
            if new:
                values["desired_since"] = self.now()
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(values))
            words = f"Asked to {desired}{' at once' if at_once else ''}."
            self._say(connection, job_id, "wish", words, data={"desired": desired, "at_once": at_once})
            return read_job(connection, job_id)

    def set_priority(self, job_id: str, priority: int) -> Job:
        """Lets a job start earlier or later than others; repeatable.  JobFinished; QuotaExceeded above the tenant's."""
        with self.write() as connection:
            job = read_job(connection, job_id, lock=True)
            if job.is_finished:
                raise JobFinished(f"Job {job_id} is {job.state}; its priority does not matter any more.")
            if job.priority == priority:
                return job
            check_priority(self._quota(connection, job.tenant), job.tenant, priority)
            connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(priority=priority))
            message = f"Its priority is {priority} from now on; it was {job.priority}."
            self._say(connection, job_id, "priority", message, data={"from": job.priority, "to": priority})
            return read_job(connection, job_id, lock=True)

    def approve_plan(self, job_id: str, plan_number: int) -> Job:
        """Lets a plan be trained, and no other; repeatable.  PlanNotFound, JobFinished, Conflict once groups train.

        The coordinator starts the next attempt of a job that waited for it.
        """
        plans = tables.plans
        with self.write("approve_plan") as connection:
            job = read_job(connection, job_id, lock=True)
            of_job = plans.c.job_id == job_id
            rows = {row["number"]: row for row in connection.execute(select(plans).where(of_job)).mappings()}
            if plan_number not in rows:
                there = f"it has {quoted(list(map(str, sorted(rows))))}. Approve one of these."
                wait = f"it is {job.state}. Wait for its plan."
                raise PlanNotFound(f"Job {job_id} has no plan {plan_number}; {there if rows else wait}")
            if rows[plan_number]["approved"]:
                return job
            if job.is_finished:
                raise JobFinished(
                    f"Job {job_id} is {job.state}; its plan {plan_number} cannot be approved any more. Run the plan "
                    "as a job of its own."
                )
            if _trains(job):
                trained = [number for number, row in rows.items() if row["approved"]]
                raise Conflict(
                    f"Job {job_id} is past its plans and trains plan {trained[0] if trained else '?'}; plan "
                    f"{plan_number} cannot be approved any more. Run it as a job of its own once this one is finished."
                )
            now = self.now()
            connection.execute(update(plans).where(of_job).values(approved=False, approved_at=None))
            where = of_job & (plans.c.number == plan_number)
            connection.execute(update(plans).where(where).values(approved=True, approved_at=now))
            if job.state == JobState.AWAITING_APPROVAL:
                reason = f"plan {plan_number} is approved; the job waits for its turn"
                connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(reason=reason))
            self._say(connection, job_id, "plan", f"Plan {plan_number} was approved.", data={"plan": plan_number})
            return read_job(connection, job_id)

    def wish(self, job_id: str) -> Wish:
        """What the job's driver has to heed, in one cheap read."""
        must_be_id(job_id)
        jobs, flags = tables.jobs, tables.flags
        with self.read() as connection:
            row = connection.execute(
                select(jobs.c.desired, jobs.c.attempt, jobs.c.state, jobs.c.deadline_at).where(jobs.c.id == job_id)
            ).first()
            draining = connection.execute(select(flags.c.value).where(flags.c.name == _DRAINING)).scalar()
        if row is None:
            raise JobNotFound(f"There is no job {job_id!r:.60}.")
        overdue = row.deadline_at is not None and row.deadline_at <= self.now()
        return Wish(Desired(row.desired), bool(draining), row.attempt, row.state in ACTIVE, overdue)

    def set_draining(self, draining: bool) -> None:
        """Tells every driver that the service shuts down (or that it is back)."""
        flags = tables.flags
        with self.write() as connection:
            if connection.execute(update(flags).where(flags.c.name == _DRAINING).values(value=draining)).rowcount == 0:
                connection.execute(insert(flags).values(name=_DRAINING, value=draining))


def _trains(job: Job) -> bool:
    """Whether its plan is in use, or was before an interruption."""
    return STAGE_OF.get(job.state) in _PAST_PLANS or not _PAST_PLANS.isdisjoint(job.stage_times)
