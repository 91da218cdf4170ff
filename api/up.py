"""`cohort up`: serves in the foreground and says where."""

import json
from collections.abc import Iterator
from typing import Any

import typer

from api.serve import serve
from service.connection import Connection
from service.settings import Settings


def up(given: dict[str, Any], *, until_stdin_closes: bool, as_json: bool = False) -> None:
    """`given`: settings that the command line names."""
    settings = Settings.load(**given)

    def started(connection: Connection) -> None:
        for line in whereabouts(settings, connection, as_json=as_json):
            typer.echo(line)

    typer.echo(f"Starting in {settings.home} ...", err=as_json)
    serve(settings, started=started, until_stdin_closes=until_stdin_closes)
    typer.echo("Stopped.", err=as_json)


def whereabouts(settings: Settings, connection: Connection, *, as_json: bool) -> Iterator[str]:
    """What is said once the service answers: for people, or one JSON object."""
    if as_json:
        told = connection.model_dump(include={"url", "dashboard", "key"})
        yield json.dumps(told | {"home": str(settings.home)})
        return
    places = {
        "API": connection.url,
        "docs": f"{connection.url}/docs",
        "Ray": connection.dashboard or "",
        "key": connection.key or "none: only this machine is served",
    }
    for name, value in places.items():
        yield f"  {name:<5}{value}"
    if settings.ray_address is None:
        yield f"  (the Ray dashboard asks for a token: {settings.home / 'ray_token'})"
    yield "Ctrl-C stops it. In another terminal: cohort submit examples/demo.yaml --watch"
