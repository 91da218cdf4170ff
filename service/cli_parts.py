"""What the modules of the `cohort` command share: options, the connection that they stand for, how answers are printed,
and how a command ends."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from pydantic import BaseModel

from service import live, show, wire
from service.client import ApiError, BundleBroken, Cohort, Unreachable
from service.connection import Connection
from service.states import JobState

TOLD = (
    *(ApiError, Unreachable, BundleBroken, ValueError, TimeoutError),
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError),
)
"""Errors whose message is for the user; anything else is a fault of ours and shows its traceback."""

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {
    DONE: "Done. A job that was followed has SUCCEEDED.",
    FAILED: "Refused or failed; a sentence on standard error says why. A job that was followed ended otherwise, or one "
    "that was checked or estimated would not work.",
    USAGE: "The command line is not one: no such command, option or argument.",
    UNREACHABLE: "The service does not answer.",
    INTERRUPTED: "Ctrl-C. A job that was followed goes on.",
}
"""What every exit code of `cohort` means."""


def _job_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Jobs of the service whose ids begin like this, for completion in a shell; none where it does not answer."""
    given = ctx.find_root().params
    try:
        connection = Connection.find(_folder(given.get("home")), given.get("url"), given.get("key"))
        with Cohort(connection.url, connection.key, tries=1) as client:
            jobs = [job for job, _ in zip(client.jobs(page=50), range(50), strict=False)]
    except TOLD:  # a shell that completes has no place for a message; the command itself will tell it
        return []
    return [(job.id, f"{job.name}: {job.state}") for job in jobs if job.id.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[
    str, typer.Argument(help="The job's id, or `last` for the newest one.", autocompletion=_job_ids, metavar="JOB")
]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Stay and show how it goes.  With --json: a JSON object per line.")
]


def sentence(error: BaseException) -> str:
    """What the user is told of an error."""
    if isinstance(error, OSError) and error.filename is not None:  # the system's own words, without its number
        return f"{error.filename}: {error.strerror}. Name another, or mend this one."
    return str(error)


def home_of(ctx: typer.Context) -> Path:
    """The service's folder."""
    return _folder(ctx.obj[0])


def connected(ctx: typer.Context) -> Cohort:
    """A client of the service that the command is about.  ValueError if there is none."""
    _, url, key = ctx.obj
    connection = Connection.find(home_of(ctx), url, key)
    return Cohort(connection.url, connection.key)


def job_id_of(client: Cohort, given: str) -> str:
    """The id, or that of the newest job for `last`.  ValueError if there is none."""
    if given != "last":
        return given
    newest = next(client.jobs(page=1), None)
    if newest is None:
        raise ValueError("There is no job yet, so no last one. `cohort submit FILE` makes one.")
    return newest.id


def read_mapping(file: Path, example: str) -> dict[str, Any]:
    """What a YAML or JSON file holds under which name.  ValueError, with a line such as it might hold."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML ({error}). Write lines like `{example}`.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no names and values. Write lines like `{example}`.")
    return found


def read_setting(change: str, example: str) -> tuple[str, Any]:
    """Name and value of `name=value`.  ValueError."""
    name, sign, value = change.partition("=")
    if not sign or not name.strip():
        raise ValueError(f"--set {change!r:.60} is no setting. Write key=value, e.g. {example}.")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {change!r:.60}: the value is no YAML ({error}). Try {example}.") from error


def changed(values: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """The values with `part.name=value` changed, one after the other.  ValueError."""
    for change in changes:
        name, value = read_setting(change, "training.lr=0.01")
        *parts, last = name.split(".")
        place: Any = values
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {change!r:.60}: {part} is given as {place!r:.40}, which has no parts.")
        place[last] = value
    return values


def tell(value: Any, as_json: bool, lines: Callable[[], Iterable[Any]]) -> None:
    """JSON, or what `lines()` gives; tables fit the terminal, and lines are left whole, for copying."""
    if as_json:
        typer.echo(json.dumps(_plain(value), indent=2))
        return
    console = show.console()
    for line in lines():
        if isinstance(line, str):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(line)


def tell_accepted(client: Cohort, job: wire.Job, what: str = "", *, watch: bool, as_json: bool) -> None:
    """Says that a job was accepted; with `watch` stays to its end, and ends the command."""
    if watch:
        follow(client, job.id, as_json=as_json)
    tell(job, as_json, lambda: [f"{job.id} is {job.state}{what}. See it with `cohort watch {job.id}`."])


def follow(client: Cohort, job_id: str, *, as_json: bool) -> NoReturn:
    """Shows how the job goes until its end, and ends the command.  Ctrl-C leaves the job running, and says so."""
    try:
        job = _follow_in_json(client, job_id) if as_json else _follow_in_words(client, job_id)
    except KeyboardInterrupt:
        comes_back = f"`cohort watch {job_id}` shows it again, `cohort cancel {job_id}` stops it."
        typer.echo(f"\n{job_id} goes on. {comes_back}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(DONE if job.state == JobState.SUCCEEDED else FAILED)


def _follow_in_words(client: Cohort, job_id: str) -> wire.Job:
    console = show.console()
    job = live.follow(client, job_id, console)
    found = client.results(job_id)
    if found.results:
        console.print(show.results_table(found))
    console.print(f"{job_id} is {job.state}. {job.reason or ''}".rstrip(), highlight=False, soft_wrap=True)
    return job


def _follow_in_json(client: Cohort, job_id: str) -> wire.Job:
    """One object a line: the job as it is, every event, and the job as it ended."""
    typer.echo(json.dumps({"job": _plain(client.job(job_id))}))
    for event in client.watch(job_id):
        typer.echo(json.dumps({"event": _plain(event)}))
    job = client.job(job_id)
    typer.echo(json.dumps({"job": _plain(job)}))
    return job


def _folder(home: Path | None) -> Path:
    return (home or Path("var")).expanduser().resolve()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
