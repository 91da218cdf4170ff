"""The `cohort` command: the app, and what starts a service or needs none.

What talks to a service over HTTP is in `cli_jobs` and its like.  Commands that need more (`up`, `demo`, `predict`,
`methods`, `bench`, `doctor`) live in modules of their own that are loaded when they are called, so that looking at a
job does not wait for torch.
"""

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service import cli_estimate, cli_jobs, cli_keys, cli_plans, cli_queue
from service.cli_parts import EXIT_CODES, FAILED, TOLD, UNREACHABLE, Json, home_of, sentence
from service.client import Unreachable

_ROOMS = ("api", "grouping", "service", "workers")


class _Told(TyperGroup):
    """Ends with the reason in one sentence, not with a traceback, where there is a reason."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TOLD as error:
            typer.secho(sentence(error), fg="red", err=True)
            raise typer.Exit(UNREACHABLE if isinstance(error, Unreachable) else FAILED) from error


app = typer.Typer(
    cls=_Told,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train many CLIP classification tasks at once, each with the tasks that help it.\n\n"
    "Start a service with `cohort up`, then in another terminal: `cohort submit job.yaml --watch`. "
    "`cohort demo` shows everything in a few minutes.",
    epilog="Exit codes: " + " ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()),
)

_Home = Annotated[
    Path | None, typer.Option(envvar="COHORT_HOME", help="The service's folder.  (default: ./var)", show_default=False)
]
_Url = Annotated[str | None, typer.Option("--url", envvar="COHORT_URL", help="A service elsewhere.")]
_Key = Annotated[str | None, typer.Option("--key", envvar="COHORT_KEY", help="Its API key.")]


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
    as_json: Json = False,
) -> None:
    """Run the service here until Ctrl-C: the API, and a local Ray unless COHORT_RAY_ADDRESS names a cluster.

    Everything it keeps is in its home folder.  Stopping it lets running jobs write checkpoints; the next start goes on.
    With --json, standard output is one line once it answers: `url`, `dashboard`, `key`, `home`.
    """
    given = {"home": ctx.obj[0], "host": host, "port": port, "no_auth": no_auth or None}
    given |= {"data_roots": [str(root) for root in data_root] if data_root else None}
    given = {name: value for name, value in given.items() if value is not None}
    _load("api.up:up")(given, until_stdin_closes=until_stdin_closes, as_json=as_json)


@app.command()
def demo(
    ctx: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running afterwards.")] = False,
    spec: Annotated[Path | None, typer.Option(help="Another job.  (default: examples/demo.yaml)")] = None,
    as_json: Json = False,
) -> None:
    """See it all once: start a service, train the demo job, show the groups, why, and what they gained.

    With --json, standard output is one object, the job as it ended and its results; all else goes to standard error.
    """
    source = ctx.find_root().get_parameter_source("home")
    home = ctx.obj[0] if source is not None and source.name == "COMMANDLINE" else Path("var/demo")
    raise typer.Exit(_load("service.cli_demo:demo")(home=home, keep=keep, spec=spec, as_json=as_json))


@app.command()
def doctor(
    ctx: typer.Context,
    spec: Annotated[Path | None, typer.Argument(help="A job description: what would it use, and could it run?")] = None,
    as_json: Json = False,
) -> None:
    """Look for what would keep Cohort from working here and on its cluster, and say how to mend it.

    Exits with 1 if something is wrong.
    """
    raise typer.Exit(_load("service.cli_doctor:doctor")(home_of(ctx), spec, as_json=as_json))


# jobs: over HTTP

for part in (cli_jobs, cli_estimate, cli_plans, cli_queue, cli_keys):
    app.add_typer(part.app)


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
    as_json: Json = False,
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
    as_json: Json = False,
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
    as_json: Json = False,
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
    """`module:name`, imported now.  ValueError where only the client is installed."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _ROOMS:
            raise
        raise ValueError(
            f"This needs more than the client that is installed here: there is no {error.name!r}. "
            "Install the service's packages: pip install 'cohort[server]' (in a checkout: make setup)."
        ) from error


if __name__ == "__main__":
    main()
