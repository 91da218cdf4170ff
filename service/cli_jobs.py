"""`cohort submit`, `ls`, `show`, `watch`, `cancel`, ...: commands about jobs."""

from pathlib import Path
from typing import Annotated

import typer

from service import show, wire
from service.cli_parts import (
    DONE,
    FAILED,
    JobId,
    Json,
    Watch,
    changed,
    connected,
    follow,
    job_id_of,
    read_mapping,
    tell,
    tell_accepted,
)
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
            raise typer.Exit(DONE if found.valid else FAILED)
        tell_accepted(client, client.submit(file), watch=watch, as_json=as_json)


@app.command()
def ls(
    ctx: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="The archived jobs instead.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="The deleted jobs instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connected(ctx) as client:
        found = client.jobs(state=state, archived=archived, deleted=deleted, page=min(limit, 500))
        jobs = [job for job, _ in zip(found, range(limit), strict=False)]
    tell(jobs, as_json, lambda: [show.jobs_table(jobs)] if jobs else ["No jobs. `cohort submit FILE` makes one."])


@app.command("show")
def show_job(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Show where a job stands, and why."""
    with connected(ctx) as client:
        found = client.job(job_id_of(client, job))
    tell(found, as_json, lambda: [show.job_lines(found)])


@app.command()
def watch(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Follow a job to its end: stages, a bar and the time left per group, loss and score.  Ctrl-C leaves it running.

    With --json: the job, every event and the job as it ended, an object per line.
    """
    with connected(ctx) as client:
        follow(client, job_id_of(client, job), as_json=as_json)


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
def cancel(
    ctx: typer.Context,
    job: JobId,
    now: Annotated[bool, typer.Option("--now", help="Without waiting for last checkpoints.")] = False,
    as_json: Json = False,
) -> None:
    """Stop a job for good.  Its checkpoints are kept, and `retry` goes on from them."""
    with connected(ctx) as client:
        _say(client.cancel(job_id_of(client, job), now=now), as_json)


@app.command()
def pause(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Let a job write checkpoints and give its devices back."""
    with connected(ctx) as client:
        _say(client.pause(job_id_of(client, job)), as_json)


@app.command()
def resume(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Let a paused job go on where it stopped."""
    with connected(ctx) as client:
        _say(client.resume(job_id_of(client, job)), as_json)


@app.command()
def retry(ctx: typer.Context, job: JobId, watch: Watch = False, as_json: Json = False) -> None:
    """Train what is missing of a job that failed or was cancelled, as a job of its own."""
    with connected(ctx) as client:
        child = client.retry(job_id_of(client, job))
        tell_accepted(client, child, f": it retries {child.retry_of}", watch=watch, as_json=as_json)


@app.command()
def clone(
    ctx: typer.Context,
    job: JobId,
    name: Annotated[str | None, typer.Option(help="What the new job is called.  (default: as the other)")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting to change, e.g. `training.lr=0.01`; repeatable.")
    ] = None,
    overrides: Annotated[
        Path | None, typer.Option(help="A YAML or JSON file with what is different, as in a job description.")
    ] = None,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Submit a job like another one, from the beginning, with other settings."""
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        different = {} if overrides is None else read_mapping(overrides, "training: {epochs: 10}")
        child = client.clone(job_id, changed(different, change or []), name=name)
        tell_accepted(client, child, f": a clone of {job_id}", watch=watch, as_json=as_json)


@app.command()
def archive(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Put a finished job away: out of the listing, and kept."""
    with connected(ctx) as client:
        found = client.archive(job_id_of(client, job))
    tell(found, as_json, lambda: [f"{found.id} is archived; `cohort ls --archived` lists it."])


@app.command()
def unarchive(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Put an archived job back into the listing."""
    with connected(ctx) as client:
        found = client.unarchive(job_id_of(client, job))
    tell(found, as_json, lambda: [f"{found.id} is in the listing."])


@app.command()
def delete(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Delete a finished job.  It can be restored for some days."""
    with connected(ctx) as client:
        found = client.delete(job_id_of(client, job))
    line = f"{found.id} is deleted; until {found.purge_at:%Y-%m-%d %H:%M} UTC `cohort restore {found.id}` undoes it."
    tell(found, as_json, lambda: [line])


@app.command()
def restore(ctx: typer.Context, job: JobId, as_json: Json = False) -> None:
    """Take a deletion back."""
    with connected(ctx) as client:
        found = client.restore(job_id_of(client, job))
    tell(found, as_json, lambda: [f"{found.id} is {found.state} and not deleted."])


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
        tell_accepted(client, child, f": it goes on from {child.parent}", watch=watch, as_json=as_json)


@app.command()
def pull(
    ctx: typer.Context,
    job: JobId,
    folder: Annotated[Path | None, typer.Argument(help="Where to.  (default: ./JOB)", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Fetch a finished job's bundle, every file checked against its sha256."""
    with connected(ctx) as client:
        job_id = job_id_of(client, job)
        place = client.pull(job_id, folder or Path(job_id))
    told = f"The bundle is in {place}. Try `cohort predict {place} TASK IMAGE`."
    tell({"bundle": str(place)}, as_json, lambda: [told])


def _say(job: wire.Job, as_json: bool) -> None:
    tell(job, as_json, lambda: [f"{job.id} is {job.state}, asked to {job.desired}."])


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
