"""`cohort approve`, `plans`, `replan`, `compare`, `rerun`: what a job's plans are, and what others would be."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from service import wire_plans
from service.cli_parts import JobId, Json, Watch, connected, job_id_of, read_mapping, read_setting, tell, tell_accepted
from service.client import Cohort
from service.plan_words import counted

app = typer.Typer()

_NAMED = 12
"""Most tasks of a group that a table names."""
_OF_THE_JOB = ("approve", "arbitrate", "arbitrate_share")
"""Settings of what a job does with its plan: another plan is not made by them."""


@app.command()
def approve(
    ctx: typer.Context,
    job: JobId,
    number: Annotated[
        int | None, typer.Argument(help="The plan's number.  (default: the newest)", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a plan be trained (see it first with `cohort groups JOB`, or `cohort plans JOB NUMBER`)."""
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        if number is None:
            plan = client.job(job_id).plan
            number = plan.number if plan else 0
        found = client.approve(job_id, number)
    tell(found, as_json, lambda: [f"Plan {number} of {job_id} is approved."])


@app.command()
def plans(
    ctx: typer.Context,
    job: JobId,
    number: Annotated[int | None, typer.Argument(help="Show this one whole.  (default: list all)")] = None,
    as_json: Json = False,
) -> None:
    """List a job's plans, or show one and how firm it is."""
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        found = client.plans(job_id) if number is None else client.reviewed_plan(job_id, number)
    tell(found, as_json, lambda: _lines(job_id, found))


@app.command()
def replan(
    ctx: typer.Context,
    job: JobId,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A grouping setting to change, e.g. `num_groups=3`; repeatable.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Groups to take as they are: a YAML file of lines `g1: [art, clipart]`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask for another plan from what a job has measured.  Nothing trains, and the job's own plan stays."""
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        found = _replan(client, job_id, change or [], groups)
    more = _hint(job_id, found.number)
    tell(found, as_json, lambda: [*_lines(job_id, found), more])


@app.command()
def compare(
    ctx: typer.Context,
    job: JobId,
    first: Annotated[int, typer.Argument(help="A plan's number.")],
    second: Annotated[int, typer.Argument(help="Another plan's number.")],
    as_json: Json = False,
) -> None:
    """Show which tasks change groups between two plans, and what both are worth."""
    with connected(ctx) as client:
        found = client.compare(job_id_of(client, job), first, second)
    tell(found, as_json, lambda: _comparison_lines(found))


@app.command()
def rerun(
    ctx: typer.Context,
    job: JobId,
    number: Annotated[int, typer.Argument(help="The plan's number.")],
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Train a plan of a finished job as a job of its own, with what that one has measured."""
    with connected(ctx) as client:
        child = client.rerun(job_id_of(client, job), number)
        tell_accepted(client, child, f": plan {number} of {child.parent}", watch=watch, as_json=as_json)


def _replan(client: Cohort, job_id: str, changes: list[str], groups: Path | None) -> wire_plans.PlanDetail:
    """Asks for a plan.  `changes` are `key=value`; `groups` is a file, group to tasks.  ValueError for neither."""
    if not changes and groups is None:
        raise ValueError(
            "Neither --set nor --groups given. Try `--set num_groups=3`, or `--groups FILE` with lines like "
            "`g1: [art, clipart]`."
        )
    settings = dict(read_setting(change, "num_groups=3") for change in changes)
    return client.replan(
        job_id, settings or None, groups=None if groups is None else read_mapping(groups, "g1: [art, clipart]")
    )


def _lines(job_id: str, found: list[wire_plans.PlanSummary] | wire_plans.PlanDetail) -> list[str | Table]:
    """The list of a job's plans, or one of them."""
    if isinstance(found, wire_plans.PlanDetail):
        return _plan_lines(job_id, found)
    return [_plans_table(found)] if found else [f"{job_id} has no plans yet; they come after its stage `group`."]


def _hint(job_id: str, number: int) -> str:
    """What can be done with a new plan."""
    return (
        f"`cohort compare {job_id} 0 {number}` says what changes. `cohort approve {job_id} {number}` trains it if the "
        f"job waits for approval, `cohort rerun {job_id} {number}` as a job of its own once this one is finished."
    )


def _comparison_lines(found: wire_plans.PlanComparison) -> list[str | Table]:
    """What moves between two plans."""
    if not found.moved:
        return [found.sentence]
    table = _table("task", "from", "to", "gains", "loses")
    for move in found.moved:
        partners = (Text(_tasks(names) or "-") for names in (move.gained, move.lost))
        table.add_row(Text(move.task), move.first_group, move.second_group, *partners)
    return [found.sentence, table]


def _plans_table(plans: list[wire_plans.PlanSummary]) -> Table:
    """One row a plan."""
    table = _table("plan", "made", "origin", "groups", "verdict", "objective", "changed", "summary")
    for plan in plans:
        chosen = plan.objective.get("chosen")
        table.add_row(
            f"{plan.number}{' *' if plan.approved else ''}",
            f"{plan.created_at:%Y-%m-%d %H:%M}",
            plan.origin,
            str(len(plan.groups)),
            plan.verdict or "-",
            "-" if chosen is None else f"{chosen:.2f}",
            Text(_changes(plan, plans[0]) or "-"),
            Text(plan.summary),
        )
    table.caption = "* trains" if any(plan.approved for plan in plans) else None
    return table


def _plan_lines(job_id: str, plan: wire_plans.PlanDetail) -> list[str | Table]:
    """A plan: its groups, and how sure it is as far as that is known."""
    table = _table("group", "tasks", "why")
    for group in plan.plan["groups"]:
        table.add_row(group["id"], Text(_tasks(group["tasks"])), Text(group["reason"]))
    return [f"Plan {plan.number} of {job_id}: {plan.summary}", table, *_review_lines(job_id, plan)]


def _review_lines(job_id: str, plan: wire_plans.PlanDetail) -> list[str]:
    if plan.review is None:
        said = {
            "pending": f"How firm it is is worked out now; `cohort plans {job_id} {plan.number}` shows it then.",
            "failed": f"How firm it is could not be worked out: {plan.review_problem}.",
            "none": "It rests on no measurement.",
        }
        return [said[plan.review_state]]
    lines = []
    if confidence := plan.review["confidence"]:
        unsure = [task["task"] for task in confidence["tasks"] if task["margin"] < 0]
        lines.append(confidence["sentence"])
        if unsure:
            lines.append(f"Other data would rather put elsewhere: {_tasks(unsure)}.")
    if second := plan.review["second_opinion"]:
        lines.append(
            f"Second opinion ({second['solver']}): {counted(len(second['groups']), 'group')}, "
            f"adjusted Rand index {second['agreement']:.2f} to these."
        )
    return lines


def _changes(plan: wire_plans.PlanSummary, first: wire_plans.PlanSummary) -> str:
    """The settings in which a plan differs from the first, as far as they say who belongs together."""
    own, theirs = plan.settings.model_dump(), first.settings.model_dump()
    return ", ".join(
        f"{name}={value}" for name, value in own.items() if value != theirs[name] and name not in _OF_THE_JOB
    )


def _tasks(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
