"""The `cohort` command: talks to a service over HTTP, and starts one with `up`.

Commands that need more than a connection (`up`, `demo`, `predict`, `methods`, `bench`, `doctor`) live in modules of
their own that are loaded when they are called, so that looking at a job does not wait for torch.
"""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from service import live, show, wire
from service.client import ApiError, BundleBroken, Cohort, Unreachable
from service.connection import Connection
from service.settings import Settings
from service.states import JobState

_TOLD = (ApiError, Unreachable, BundleBroken, ValueError, TimeoutError, FileNotFoundError)
"""Errors whose message is for the user; anything else is a fault of ours and shows its traceback."""


class _Told(TyperGroup):
    """Ends with the reason in one sentence, not with a traceback, where there is a reason."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _TOLD as error:
            typer.secho(str(error), fg="red", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Told,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train many CLIP classification tasks at once, each with the tasks that help it.\n\n"
    "Start a service with `cohort up`, then in another terminal: `cohort submit job.yaml --watch`. "
    "`cohort demo` shows everything in a few minutes.",
)

_Home = Annotated[
    Path | None, typer.Option(help="The service's folder.  (default: $COHORT_HOME, or ./var)", show_default=False)
]
_Url = Annotated[str | None, typer.Option("--url", envvar="COHORT_URL", help="A service elsewhere.")]
_Key = Annotated[str | None, typer.Option("--key", envvar="COHORT_KEY", help="Its API key.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_JobId = Annotated[str, typer.Argument(help="The job's id, or `last` for the newest one.")]


@app.callback()
def main_options(ctx: typer.Context, home: _Home = None, url: _Url = None, key: _Key = None) -> None:
    ctx.obj = (home, url, key)


# a service


@app.command()
def up(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Listen here.  (default: 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any free one.  (default: 8080 if free)")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no key; only on a loopback address.")] = False,
    data_root: Annotated[list[Path] | None, typer.Option(help="A folder jobs may read.  (default: data)")] = None,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
) -> None:
    """Run the service here until Ctrl-C: the API, and a local Ray unless COHORT_RAY_ADDRESS names a cluster.

    Everything it keeps is in its home folder.  Stopping it lets running jobs write checkpoints; the next start goes on.
    """
    given = {"home": ctx.obj[0], "host": host, "port": port, "no_auth": no_auth or None}
    given |= {"data_roots": [str(root) for root in data_root] if data_root else None}
    _load("api.up:up")({k: v for k, v in given.items() if v is not None}, until_stdin_closes=until_stdin_closes)


@app.command()
def demo(
    ctx: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running afterwards.")] = False,
    spec: Annotated[Path | None, typer.Option(help="Another job.  (default: examples/demo.yaml)")] = None,
) -> None:
    """See it all once: start a service, train the demo job, show the groups, why, and what they gained."""
    raise typer.Exit(_load("service.cli_demo:demo")(home=ctx.obj[0] or Path("var/demo"), keep=keep, spec=spec))


@app.command()
def doctor(ctx: typer.Context, as_json: _Json = False) -> None:
    """Look for what would keep Cohort from working on this machine, and say how to mend it."""
    raise typer.Exit(_load("service.cli_doctor:doctor")(_home(ctx), as_json=as_json))


# jobs


@app.command()
def submit(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A job description, YAML or JSON.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show how it goes.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it would be accepted.")] = False,
    as_json: _Json = False,
) -> None:
    """Submit a job."""
    with _client(ctx) as client:
        if check:
            found = client.validate(file)
            _print(found, as_json, lambda: [_validation_line(found)])
            raise typer.Exit(0 if found.valid else 1)
        job = client.submit(file)
        if not watch:
            _print(job, as_json, lambda: [f"{job.id} is {job.state}. See it with `cohort watch {job.id}`."])
            return
        _watch(client, job.id)


@app.command()
def ls(
    ctx: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: _Json = False,
) -> None:
    """List jobs, newest first."""
    with _client(ctx) as client:
        jobs = [job for job, _ in zip(client.jobs(state=state, page=min(limit, 500)), range(limit), strict=False)]
    _print(jobs, as_json, lambda: [show.jobs_table(jobs)] if jobs else ["No jobs. `cohort submit FILE` makes one."])


@app.command("show")
def show_job(ctx: typer.Context, job: _JobId, as_json: _Json = False) -> None:
    """Show where a job stands, and why."""
    with _client(ctx) as client:
        found = client.job(_id(client, job))
    _print(found, as_json, lambda: [show.job_lines(found)])


@app.command()
def watch(ctx: typer.Context, job: _JobId) -> None:
    """Follow a job to its end: stages, groups, a bar per group, loss and score.  Ctrl-C leaves it running."""
    with _client(ctx) as client:
        _watch(client, _id(client, job))


@app.command()
def groups(ctx: typer.Context, job: _JobId, as_json: _Json = False) -> None:
    """Show how the tasks agree, who trains with whom, why, and how sure that is."""
    with _client(ctx) as client:
        job_id = _id(client, job)
        found, matrix = client.groups(job_id), client.similarity(job_id)
    both = {"groups": found.model_dump(mode="json"), "similarity": matrix.model_dump(mode="json")}
    _print(both, as_json, lambda: show.groups_whole(found, matrix))


@app.command()
def results(ctx: typer.Context, job: _JobId, as_json: _Json = False) -> None:
    """Show every task's test score under the plan and under the baselines, and what the groups gained, how surely."""
    with _client(ctx) as client:
        found = client.results(_id(client, job))
    _print(found, as_json, lambda: show.results_whole(found))


@app.command()
def cancel(ctx: typer.Context, job: _JobId) -> None:
    """Stop a job for good."""
    _wish(ctx, job, "cancel")


@app.command()
def pause(ctx: typer.Context, job: _JobId) -> None:
    """Let a job write checkpoints and give its devices back."""
    _wish(ctx, job, "pause")


@app.command()
def resume(ctx: typer.Context, job: _JobId) -> None:
    """Let a paused job go on where it stopped."""
    _wish(ctx, job, "resume")


@app.command()
def approve(
    ctx: typer.Context,
    job: _JobId,
    number: Annotated[int | None, typer.Argument(help="The plan's number.  (default: the newest)")] = None,
) -> None:
    """Let a plan be trained (see it first with `cohort groups JOB`, or `cohort plans JOB NUMBER`)."""
    with _client(ctx) as client:
        job_id = _id(client, job)
        if number is None:
            plan = client.job(job_id).plan
            number = plan.number if plan else 0
        client.approve(job_id, number)
    typer.echo(f"Plan {number} of {job_id} is approved.")


@app.command()
def plans(
    ctx: typer.Context,
    job: _JobId,
    number: Annotated[int | None, typer.Argument(help="Show this one whole.  (default: list all)")] = None,
    as_json: _Json = False,
) -> None:
    """List a job's plans, or show one and how firm it is."""
    with _client(ctx) as client:
        job_id = _id(client, job)
        found = client.plans(job_id) if number is None else client.reviewed_plan(job_id, number)
    _print(found, as_json, lambda: _load("service.cli_plans:lines")(job_id, found))


@app.command()
def replan(
    ctx: typer.Context,
    job: _JobId,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A grouping setting to change, e.g. `num_groups=3`; repeatable.")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Groups to take as they are: a YAML file of lines `g1: [art, clipart]`.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Ask for another plan from what a job has measured.  Nothing trains, and the job's own plan stays."""
    with _client(ctx) as client:
        job_id = _id(client, job)
        found = _load("service.cli_plans:replan")(client, job_id, change or [], groups)
    more = _load("service.cli_plans:hint")(job_id, found.number)
    _print(found, as_json, lambda: [*_load("service.cli_plans:lines")(job_id, found), more])


@app.command()
def compare(
    ctx: typer.Context,
    job: _JobId,
    first: Annotated[int, typer.Argument(help="A plan's number.")],
    second: Annotated[int, typer.Argument(help="Another plan's number.")],
    as_json: _Json = False,
) -> None:
    """Show which tasks change groups between two plans, and what both are worth."""
    with _client(ctx) as client:
        found = client.compare(_id(client, job), first, second)
    _print(found, as_json, lambda: _load("service.cli_plans:comparison_lines")(found))


@app.command()
def rerun(
    ctx: typer.Context,
    job: _JobId,
    number: Annotated[int, typer.Argument(help="The plan's number.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show how it goes.")] = False,
    as_json: _Json = False,
) -> None:
    """Train a plan of a finished job as a job of its own, with what that one has measured."""
    with _client(ctx) as client:
        child = client.rerun(_id(client, job), number)
        if watch:
            _watch(client, child.id)
    line = f"{child.id} is {child.state}: plan {number} of {child.parent}. See it with `cohort watch {child.id}`."
    _print(child, as_json, lambda: [line])


@app.command()
def add(
    ctx: typer.Context,
    job: _JobId,
    file: Annotated[Path, typer.Argument(help="YAML or JSON with `tasks:`, as in a job description.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show how it goes.")] = False,
    as_json: _Json = False,
) -> None:
    """Let new tasks join the groups of a finished job, as a job of its own that trains only what changes."""
    with _client(ctx) as client:
        child = client.add_tasks(_id(client, job), file)
        if watch:
            _watch(client, child.id)
    line = f"{child.id} is {child.state}: it goes on from {child.parent}. See it with `cohort watch {child.id}`."
    _print(child, as_json, lambda: [line])


@app.command()
def pull(
    ctx: typer.Context,
    job: _JobId,
    folder: Annotated[Path | None, typer.Argument(help="Where to.  (default: ./JOB)")] = None,
) -> None:
    """Fetch a finished job's bundle, every file checked against its sha256."""
    with _client(ctx) as client:
        job_id = _id(client, job)
        place = client.pull(job_id, folder or Path(job_id))
    typer.echo(f"The bundle is in {place}. Try `cohort predict {place} TASK IMAGE`.")


# without a service


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `cohort pull` fetched.")],
    task: Annotated[str, typer.Argument(help="One of its tasks.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    backbone: Annotated[
        str | None, typer.Option(help="The same weights elsewhere, e.g. `local-dir:PATH`.  (default: as trained)")
    ] = None,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `cuda:1`.")] = "cpu",
    as_json: _Json = False,
) -> None:
    """Classify images with a bundle, on this machine."""
    _load("service.cli_local:predict")(bundle, task, images, backbone=backbone, device=device, as_json=as_json)


@app.command()
def methods(
    backbone: Annotated[str, typer.Option(help="An open_clip model name, or `demo`.")] = "ViT-B-16-quickgelu",
    classes: Annotated[int, typer.Option(min=1, help="Classes of a task.")] = 65,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks of the job.")] = 4,
    groups: Annotated[int | None, typer.Option(min=1, help="Groups of its plan.  (default: 2; 1 for one task)")] = None,
    shots: Annotated[int, typer.Option(min=1, help="Training images per class.")] = 6,
    as_json: _Json = False,
) -> None:
    """List the methods, and how many numbers each trains on a backbone.  No weights are loaded."""
    _load("service.cli_local:methods")(
        backbone, classes=classes, tasks=tasks, groups=groups, shots=shots, as_json=as_json
    )


@app.command()
def bench(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A benchmark description, YAML or JSON; see examples/benchmarks.")],
    out: Annotated[Path | None, typer.Option(help="Results go here.  (default: var/bench/NAME)")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Contestants at a time, each in a process.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each process.  (default: a fair share)")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `cuda:1`.")] = "auto",
    validation: Annotated[bool, typer.Option("--validation", help="Score validation images, to choose by.")] = False,
    data_root: Annotated[list[Path] | None, typer.Option(help="A folder it may read.  (default: data)")] = None,
    as_json: _Json = False,
) -> None:
    """Measure methods x sharing x shots x seeds on tasks, here: one table and a figure.  Goes on where it stopped.

    Exits with 1 if a cell failed; the table says which, and why.
    """
    given = {"out": out, "workers": workers, "threads": threads, "device": device, "validation": validation}
    given |= {"data_root": data_root, "as_json": as_json}
    raise typer.Exit(_load("service.cli_bench:bench")(file, home=ctx.obj[0], **given))


def main() -> None:
    app()


def _load(place: str) -> Any:
    """`module:name`, imported now."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _home(ctx: typer.Context) -> Path:
    return Settings.load(**({} if ctx.obj[0] is None else {"home": ctx.obj[0]})).home


def _client(ctx: typer.Context) -> Cohort:
    _, url, key = ctx.obj
    connection = Connection.find(_home(ctx), url, key)
    return Cohort(connection.url, connection.key)


def _id(client: Cohort, given: str) -> str:
    if given != "last":
        return given
    newest = next(client.jobs(page=1), None)
    if newest is None:
        raise ValueError("There is no job yet, so no last one. `cohort submit FILE` makes one.")
    return newest.id


def _wish(ctx: typer.Context, job: str, verb: str) -> None:
    with _client(ctx) as client:
        job_id = _id(client, job)
        found = {"cancel": client.cancel, "pause": client.pause, "resume": client.resume}[verb](job_id)
    typer.echo(f"{job_id} is {found.state}, asked to {found.desired}.")


def _watch(client: Cohort, job_id: str) -> None:
    console = show.console()
    try:
        job = live.follow(client, job_id, console)
    except KeyboardInterrupt:
        typer.echo(f"\n{job_id} goes on. `cohort watch {job_id}` shows it again, `cohort cancel {job_id}` stops it.")
        raise typer.Exit(130) from None
    found = client.results(job_id)
    if found.results:
        console.print(show.results_table(found))
    console.print(f"{job_id} is {job.state}. {job.reason or ''}".rstrip())
    raise typer.Exit(0 if job.state == JobState.SUCCEEDED else 1)


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


def _print(value: Any, as_json: bool, lines: Any) -> None:
    """JSON, or what `lines()` gives."""
    if as_json:
        typer.echo(json.dumps(_plain(value), indent=2))
        return
    console = show.console()
    for line in lines():
        console.print(line, markup=False, highlight=False) if isinstance(line, str) else console.print(line)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
