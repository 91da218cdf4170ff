"""`cohort submit`, `ls`, `show`, `watch`, `cancel`, ...: commands about jobs."""

from pathlib import Path
from typing import Annotated

import typer

from service import show, wire
from service.cli_parts import JobId, Json, Watch, connected, follow, job_id_of, tell
from service.states import JobState

app = typer.Typer()


@app.command()
def submit(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A job description, YAML or JSON.")],
    watch: Watch = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it would be accepted.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a job."""
    with connected(ctx) as client:
        if check:
            found = client.validate(file)
            tell(found, as_json, lambda: [_validation_line(found)])
            raise typer.Exit(0 if found.valid else 1)
        job = client.submit(file)
        if not watch:
            tell(job, as_json, lambda: [f"{job.id} is {job.state}. See it with `cohort watch {job.id}`."])
            return
        follow(client, job.id)


@app.command()
def ls(
    ctx: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connected(ctx) as client:
        jobs = [job for job, _ in zip(client.jobs(state=state, page=min(limit, 500)), range(limit), strict=False)]
    tell(jobs, as_json, lambda: [show.jobs_table(jobs)] if jobs else ["No jobs. `cohort submit FILE` makes one."])


@app.command("show")
def show_job(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show where a job stands, and why."""
    with connected(ctx) as client:
        found = client.job(job_id_of(client, job))
    tell(found, as_json, lambda: [show.job_lines(found)])


@app.command()
def watch(ctx: typer.Context, job: JobId) -> None:
    """Follow a job to its end: stages, groups, a bar per group, loss and score.  Ctrl-C leaves it running."""
    with connected(ctx) as client:
        follow(client, job_id_of(client, job))


@app.command()
def groups(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show how the tasks agree, who trains with whom, why, and how sure that is."""
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        found, matrix = client.groups(job_id), client.similarity(job_id)
    both = {"groups": found.model_dump(mode="json"), "similarity": matrix.model_dump(mode="json")}
    tell(both, as_json, lambda: show.groups_whole(found, matrix))


@app.command()
def results(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show every task's test score under the plan and under the baselines, and what the groups gained, how surely."""
    with connected(ctx) as client:
        found = client.results(job_id_of(client, job))
    tell(found, as_json, lambda: show.results_whole(found))


@app.command()
def cancel(ctx: typer.Context, job: JobId) -> None:
    """Stop a job for good."""
    _wish(ctx, job, "cancel")


@app.command()
def pause(ctx: typer.Context, job: JobId) -> None:
    """Let a job write checkpoints and give its devices back."""
    _wish(ctx, job, "pause")


@app.command()
def resume(ctx: typer.Context, job: JobId) -> None:
    """Let a paused job go on where it stopped."""
    _wish(ctx, job, "resume")


@app.command()
def add(
    ctx: typer.Context,
    job: JobId,
    file: Annotated[Path, typer.Argument(help="YAML or JSON with `tasks:`, as in a job description.")],
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Let new tasks join the groups of a finished job, as a job of its own that trains only what changes."""
    with connected(ctx) as client:
        child = client.add_tasks(job_id_of(client, job), file)
        if watch:
            follow(client, child.id)
    line = f"{child.id} is {child.state}: it goes on from {child.parent}. See it with `cohort watch {child.id}`."
    tell(child, as_json, lambda: [line])


@app.command()
def pull(
    ctx: typer.Context,
    job: JobId,
    folder: Annotated[Path | None, typer.Argument(help="Where to.  (default: ./JOB)")] = None,
) -> None:
    """Fetch a finished job's bundle, every file checked against its sha256."""
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        place = client.pull(job_id, folder or Path(job_id))
    typer.echo(f"The bundle is in {place}. Try `cohort predict {place} TASK IMAGE`.")


def _wish(ctx: typer.Context, job: str, verb: str) -> None:
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        found = {"cancel": client.cancel, "pause": client.pause, "resume": client.resume}[verb](job_id)
    typer.echo(f"{job_id} is {found.state}, asked to {found.desired}.")


def _validation_line(found: wire.Validation) -> str:
    if found.valid:
        seen = (
            f"{task.task}: {task.num_images} images, "
            + (f"{task.num_captions} captions" if task.kind == "retrieval" else f"{task.num_classes} classes")
            for task in found.tasks
        )
        return "The job would be accepted.\n" + "\n".join(seen)
    faults = [f"- {fault.path}: {fault.problem}" if fault.path else f"- {fault.problem}" for fault in found.faults]
    faults += [f"- {task.problem}" for task in found.tasks if task.problem]
    return "\n".join(["The job would not work:", *faults])
