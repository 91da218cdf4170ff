"""What the modules of the `cohort` command share: options, the connection that they stand for, and how answers are
printed."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel

from service import live, show
from service.client import Cohort
from service.connection import Connection
from service.settings import Settings
from service.states import JobState

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobId = Annotated[str, typer.Argument(help="The job's id, or `last` for the newest one.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Stay and show how it goes.")]


def home_of(ctx: typer.Context) -> Path:
    """The service's folder."""
    return Settings.load(**({} if ctx.obj[0] is None else {"home": ctx.obj[0]})).home


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
    """JSON, or what `lines()` gives."""
    if as_json:
        typer.echo(json.dumps(_plain(value), indent=2))
        return
    console = show.console()
    for line in lines():
        console.print(line, markup=False, highlight=False) if isinstance(line, str) else console.print(line)


def follow(client: Cohort, job_id: str) -> None:
    """Shows how the job goes until its end, and ends the command: 0 if it succeeded."""
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


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, list) else value
