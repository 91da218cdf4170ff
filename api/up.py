"""`cohort up`: serves in the foreground and says where."""

from typing import Any

import typer

from api.serve import serve
from service.connection import Connection
from service.settings import Settings


def up(given: dict[str, Any], *, until_stdin_closes: bool) -> None:
    """`given`: settings that the command line names."""
    settings = Settings.load(**given)
    typer.echo(f"Starting in {settings.home} ...")
    serve(settings, started=lambda connection: _tell(settings, connection), until_stdin_closes=until_stdin_closes)
    typer.echo("Stopped.")


def _tell(settings: Settings, connection: Connection) -> None:
    lines = {
        "API": connection.url,
        "docs": f"{connection.url}/docs",
        "Ray": connection.dashboard or "",
        "key": connection.key or "none: only this machine is served",
    }
    for name, value in lines.items():
        typer.echo(f"  {name:<5}{value}")
    if settings.ray_address is None:
        typer.echo(f"  (the Ray dashboard asks for a token: {settings.home / 'ray_token'})")
    typer.echo("Ctrl-C stops it. In another terminal: cohort submit examples/demo.yaml --watch")
